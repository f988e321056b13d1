"""Each kind of wrong configuration, and the one line that it gets."""

import os
from pathlib import Path

import pytest

from bench.cli import main
from bench.config import expand, overlay, sections
from bench.schedule import plan
from bench.types import UsageError

HEAD = 'schema = 1\nname = "t"\n[dataset]\nname = "digits"\nn = 20\ntrain_n = 20\n'
MODEL = '[[models]]\narch = "small-cnn"\n'
ROW = '[[defenses]]\nuse = "standard"\n'
COLUMN = '[[attacks]]\nuse = "pgd"\n'
SOUND = HEAD + MODEL + ROW + COLUMN


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def line(text):
    Path("t.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        plan.make(*sections.request("t.toml").parts)
    assert len(str(caught.value).splitlines()) == 1 and "t.toml" in str(caught.value)
    return str(caught.value)


WRONG = {
    "empty sweep": (SOUND + "steps = []\n", "attacks.0: steps = []: an empty list sweeps over nothing"),
    "empty eps": (SOUND + "eps = []\n", "attacks.0.eps: an empty list asks for nothing"),
    "empty access": (SOUND + "access = []\n", "access: an empty list asks for nothing; at least 1 is needed"),
    "empty source": (SOUND + 'access = ["transfer"]\nsource = []\n', "source: an empty list asks for nothing"),
    "empty base": (SOUND + '[[defenses]]\nuse = "jpeg"\nbase = []\n', "base: an empty list asks for nothing"),
    "empty quality": (SOUND + '[[defenses]]\nuse = "jpeg"\nquality = []\n', "quality = []: an empty list"),
    "empty network": (SOUND.replace('"small-cnn"', '"small-cnn"\nchannels = []'), "models.0: channels = []"),
    "empty shared": (SOUND + "[attack]\nsteps = []\n", "steps = []: an empty list"),
    "true images": (SOUND.replace("n = 20", "n = true", 1), "t.toml: dataset: n: true is not a number"),
    "true seed": ("seeds = [true]\n" + SOUND, "t.toml: seeds: true is not a number"),
    "true size": (SOUND.replace("n = 20", "image_size = [16, true]\nn = 20", 1), "image_size: true is not a number"),
    "true steps": (SOUND + "steps = true\n", "attack pgd: steps: true is not a number"),
    "true shared steps": (SOUND + "[attack]\nsteps = true\n", "attack pgd: steps: true is not a number"),
    "false momentum": (SOUND + "[train]\nmomentum = false\n", "train: momentum: false is not a number"),
    "true drops": (SOUND + "[train]\ndrops = [0.5, true]\n", "train: drops"),
    "true quality": (SOUND + '[[defenses]]\nuse = "jpeg"\nquality = true\n', "jpeg: quality: true is not a number"),
    "no attacks": ("attacks = []\n" + HEAD + MODEL + ROW, "attacks: an empty list asks for nothing"),
    "no seeds": ("seeds = []\n" + SOUND, "seeds: an empty list asks for nothing"),
    "negative seed": ("seeds = [0, -1]\n" + SOUND, "seeds.1: input should be greater than or equal to 0, not -1"),
    "long seed": (
        "seeds = [1180591620717411303424]\n" + SOUND,
        "seeds.0: 1180591620717411303424 is too large; a whole number is",
    ),
    "batch 0": (SOUND + "[run]\nbatch = 0\n", "run.batch: 0 is neither 'auto' nor a number of images, at least 1"),
    "batch -1": (SOUND + "[run]\nbatch = -1\n", "run.batch: -1 is neither 'auto'"),
    "two below": (
        SOUND + "[train]\nholdout = -1\nbatch = -1\n",
        "train: batch: input should be greater than 0, not -1",
    ),
    "precision": (
        SOUND + '[train]\nbf16 = "Auto"\n',
        "train: bf16: input should be a valid boolean or 'auto', not 'Auto'",
    ),
    "training batch": (SOUND + "[train]\nbatch = 0\n", "train: batch: input should be greater than 0"),
    "epochs": (SOUND + "[train]\nepochs = 9000000000000000000\n", "epochs: input should be less than or equal to"),
    "holdout": (SOUND + "[train]\nholdout = 20\n", "train: holdout = 20 leaves none of the 20 training images"),
    "n": (SOUND.replace("n = 20", "n = -20", 1), "dataset.n: input should be greater than 0, not -20"),
    "timeout": (SOUND + f'[run]\ntimeout = "{"9" * 400}h"\n', "is no time such as 90s, 9m or 2h, of at most ten years"),
    "timeout 1e400h": (SOUND + '[run]\ntimeout = "1e400h"\n', "'1e400h' is no time"),
    "inf": (SOUND + "eps = inf\n", "attacks.0.eps: inf is no finite number"),
    "nan": (SOUND + "[train]\nlr = nan\n", "train.lr: nan is no finite number"),
    "inf as a text": (SOUND + '[train]\nlr = "1e999"\n', "lr: input should be a finite number"),
    "date": (
        SOUND + "steps = 2020-01-01\n",
        "attacks.0.steps: datetime.date(2020, 1, 1) is a date or time, which no setting takes",
    ),
    "5,000 digits": (SOUND + f"steps = {'9' * 5000}\n", "a number of thousands of digits"),
    "5,000 hexadecimal digits": (
        SOUND + f"steps = 0x{'f' * 5000}\n",
        "a value of type int is too large; a whole number is at most 2^63 - 1",
    ),
    "5,000 digits as a text": (SOUND + f'steps = "{"9" * 3999}"\n', "attack pgd: "),
    "eps of ten million digits": (SOUND + 'eps = "1e99999999"\n', "eps: '1e99999999' is not a number of at most 100"),
    "3,000 lists": (SOUND + f"steps = {'[' * 3000}{']' * 3000}\n", "nested too deeply"),
    "3,000 tables": (SOUND + f"steps = {'{a = ' * 3000}1{'}' * 3000}\n", "nested too deeply"),
    "13 lists": (SOUND + f"steps = {'[' * 13}{']' * 13}\n", "attacks.0.steps.0.0.0.0.0.0.0.0.0: lists or tables are"),
    "100,000 dots": (SOUND + f"{'a.' * 100_000}b = 1\n", "a dotted key of more than 32 parts"),
    "a seed of 64 bits": (
        "seeds = [18446744073709551615]\n" + SOUND,
        "seeds.0: 18446744073709551615 is too large; a whole",
    ),
    "a seed of -64 bits": (
        "seeds = [-18446744073709551615]\n" + SOUND,
        "is too small; a whole number is at least -2^63",
    ),
    "escape": ('summary = "\\u001b[2J"\n' + SOUND, "summary: '\\x1b[2J' has a control character, '\\x1b'; a text has"),
    "byte 0": (
        SOUND.replace('"pgd"', '"p\\u0000"'),
        "attacks.0.use: 'p\\x00' has a control character, '\\x00'; a text has none but",
    ),
    "byte 0 in a key": (SOUND + '"a\\u0000b" = 1\n', "attacks.0: 'a\\x00b' cannot be a key"),
    "long key": (SOUND + f"{'a' * 300} = 1\n", "cannot be a key"),
    "long text": (SOUND + f'source = "{"a" * 5000}"\n', "is not a text of at most 4,000 characters: it has 5,000"),
    "long name": (SOUND.replace('"t"', f'"{"t" * 300}"'), "name: String should have at most 200 characters"),
    "variants": (SOUND + "[variants]\nscale = 3\n", "variants are tables such as [variants.scale.tiny]"),
    "variants as a list": ("variants = [1]\n" + SOUND, "variants are tables such as"),
    "default": ("default = [1]\n" + SOUND, "default names variants"),
    "extends": ("extends = 3\n" + SOUND, 'extends names one preset or file, as in extends = "quick", not 3'),
    "extends a list": ('extends = ["quick"]\n' + SOUND, "extends names one preset or file"),
    "extends itself": ('extends = "t.toml"\n' + SOUND, "t.toml extends itself: t.toml -> t.toml"),
    "include": ("include = 3\n" + SOUND, "include: input should be a valid list"),
    "include nothing": ('schema = 1\nname = "t"\ninclude = []\n', "include: an empty list asks for nothing"),
    "shared preset": (SOUND + "[attack]\npreset = ['tpap']\n", "[attack]: preset names one preset for all"),
    "preset of a recipe": (
        SOUND + "[train.pgd-at]\npreset = ['tpap']\n" + '[[defenses]]\nuse = "pgd-at"\n',
        "preset of",
    ),
    "preset as a table": (SOUND + "preset = {a = 1}\n", "unknown preset of attack pgd"),
    "nested sweep": (
        SOUND + "steps = [[1, 2], [3]]\n",
        "attack pgd: steps: input should be a valid integer, not [1, 2]",
    ),
    "table to a library": (SOUND.replace('"pgd"', '"art:SquareAttack"\nx = {a = 1}'), "library art: params.x"),
    "table to a network": (
        SOUND.replace('"small-cnn"', '"torchvision:resnet18"\nx = {a = 1}'),
        "network 'torchvision:resnet18': params.x",
    ),
    "image_size": (SOUND.replace("n = 20", "image_size = 100000", 1), "images of 100,000 x 100,000 pixels: at most"),
    "image_size 0": (SOUND.replace("n = 20", "image_size = [0, 8]", 1), "image_size = [0, 8]: height and width must"),
    "nobody's home": (SOUND.replace('"digits"', '"folder:~nobody-here/x"'), "no folder "),
    "a path too long": (SOUND.replace('"digits"', f'"folder:{"a" * 400}"'), "no folder "),
    "names 1": (SOUND.replace('"pgd"', f'"{"x" * 3999}"'), "unknown attack 'xxx"),
    "names 2": (SOUND.replace('"digits"', f'"{"x" * 3999}"'), "unknown dataset 'xxx"),
    "names 3": (SOUND.replace('"small-cnn"', f'"{"x" * 3999}"'), "unknown network 'xxx"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_nobody_means_is_one_line(kind):
    text, says = WRONG[kind]
    assert says in line(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("standard", 'jpeg"\nbase = "bit-depth'), "'bit-depth' is a test-time step, not a base; there are: "),
        (("standard", 'jpeg"\nbase = "jpeg'), "'jpeg' is a test-time step, not a base; there are: "),
        (("standard", 'jpeg"\nbase = "pgd'), "'pgd' is an attack, not a base; there are: "),
        (("standard", 'jpeg"\nbase = "small-cnn'), "'small-cnn' is a network, not a base; there are: "),
        (("standard", 'jpeg"\nbase = "madrt'), "unknown base 'madrt'; did you mean 'mart'?"),
        (("standard", "pgd"), "defenses[0] (pgd): 'pgd' is an attack, not a defense; there are: "),
        (("standard", "resnet18"), "'resnet18' is a network, not a defense; there are: "),
        (("pgd", "jpeg"), "attacks[0] (jpeg): 'jpeg' is a test-time step, not an attack; there are: "),
        (("pgd", "mart"), "attacks[0] (mart): 'mart' is a training recipe, not an attack; there are: "),
        (("pgd", "vgg16"), "attacks[0] (vgg16): 'vgg16' is a network, not an attack; there are: "),
        (("pgd", "art"), "'art' is a library of attacks (write 'art:<Class>'), not an attack; there are: "),
        (("pgd", "PGD"), "unknown attack 'PGD'; did you mean 'pgd'?"),
        (("small-cnn", "pgd"), "'pgd' is an attack, not a network; there are: "),
        (('"pgd"', '"pgd"\naccess = ["transfer"]\nsource = "fgsm"'), "'fgsm' is an attack, not a base; there are: "),
        (('"pgd"', '"pgd"\n[train.jpeg]\nepochs = 1'), "[train.jpeg]: 'jpeg' is a test-time step, not a recipe; "),
        (('"pgd"', '"pgd"\n[attack.mart]\nsteps = 1'), "[attack.mart]: 'mart' is a training recipe, not an attack; "),
        (('"standard"', '"at"\ninner = "jpeg"'), "'jpeg' is a test-time step, not an attack; there are: "),
    ],
)
def test_a_right_name_in_the_wrong_place_says_what_it_is(change, says):
    message = line(SOUND.replace(*change))
    assert says in message
    _, _, name = message.partition("'")
    assert f"did you mean '{name.partition(chr(39))[0]}'" not in message


# Products that are too large are counted, not built.


def test_a_product_of_lists_is_refused_by_its_count():
    many = list(range(1, 1001))
    text = SOUND + f"steps = {many}\nrestarts = {many}\neps = {[i / 2000 for i in many]}\n"
    assert "attacks: their lists have 2,000,000,000 combinations; a plan takes at most 250,000" in line(text)
    text = SOUND + f'[[defenses]]\nuse = "jpeg"\nquality = {many}\nbase = {["mart"] * 150}\n' * 2
    assert "defenses: their lists have 300,001 combinations" in line(text)
    assert "models: their lists have 1,000,000 combinations" in line(
        SOUND.replace('"small-cnn"', f'"small-cnn"\nchannels = {many}\nhidden = {many}')
    )


def test_cells_are_counted_before_they_are_made():
    steps = list(range(1, 101))
    text = f"seeds = {list(range(10_000))}\n{SOUND}steps = {steps}\n"
    assert "t has 2,010,000 cells: 1 networks x 10,000 seeds x 1 defenses x 201 columns; a plan takes" in line(text)


def test_an_enlarged_set_is_refused_by_the_memory_that_it_would_take(monkeypatch):
    from bench.data import room

    # 20 images, and 512 bytes a pixel for a network's pass.
    needed = 20 * 1024 * 1024 + 512 * 1024 * 1024
    text = SOUND.replace("n = 20", "n = 20\nimage_size = 1024", 1)
    monkeypatch.setattr(room, "available_memory", lambda: needed - 1)
    assert "20 images of 1x1024x1024 and a network's pass take at least 0.5 GiB of memory, 0.5 GiB are" in line(text)
    monkeypatch.setattr(room, "available_memory", lambda: 2**60)
    monkeypatch.setattr(room, "_free", lambda folder: 500 * 1024 * 1024 - 1)
    assert "500 images of 1x1024x1024 take 0.5 GiB in " in line(text)
    assert not list(Path("cache").rglob("*.npy"))


# Files that hold no configuration.


def refused(name, *variants):
    with pytest.raises(UsageError) as caught:
        sections.request(name, dict(variants))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("through", [False, True])
def test_files_that_are_none(through):
    Path("folder.toml").mkdir()
    Path("loop.toml").symlink_to("loop.toml")
    Path("zero.toml").symlink_to("/dev/zero")
    os.mkfifo("pipe.toml")
    with open("long.toml", "wb") as file:
        file.truncate(100 * 2**20)
    Path("utf16.toml").write_bytes(SOUND.encode("utf-16"))
    Path("latin1.toml").write_bytes(b'summary = "\xe9"\n' + SOUND.encode())
    Path("nul.toml").write_bytes(b"\0" * 100)
    Path("bytes.toml").write_bytes(bytes(range(256)))
    says = {
        "folder": "is not a regular file",
        "loop": "cannot be read: Too many levels of symbolic links",
        "zero": "is not a regular file",
        "pipe": "is not a regular file",
        "long": "has 104,857,600 bytes; a configuration has at most 4,194,304",
        "utf16": "is not a readable TOML file",
        "latin1": "is not a readable TOML file",
        "nul": "is not a readable TOML file",
        "bytes": "is not a readable TOML file",
        "gone": f"no configuration file gone.toml in {os.getcwd()}",
        "a" * 300: "cannot be read: File name too long",
    }
    for name, text in says.items():
        Path("over.toml").write_text(f'extends = "{name}.toml"\n{SOUND}')
        message = refused("over.toml" if through else f"{name}.toml")
        assert text in message and message.startswith("over.toml: extends: " if through else ""), name
    assert "cannot be read" in refused("a\0b.toml")


ANYWHERE = ["empty eps", "empty base", "empty sweep", "true drops", "holdout", "date", "13 lists", "names 1", "names 3"]


@pytest.mark.parametrize(
    "kind", [*ANYWHERE, "3,000 lists", "variants", "preset of a recipe", "image_size", "shared preset"]
)
def test_what_another_file_asks_for_is_said_with_both_names(kind):
    text, says = WRONG[kind]
    Path("other.toml").write_text(text)
    message = line('extends = "other.toml"\nname = "top"\n')
    assert message.startswith(("t.toml (from other.toml): ", "t.toml: extends: other.toml")) and says in message
    message = line('schema = 1\nname = "top"\ninclude = ["other.toml"]\n')
    assert message.startswith("t.toml: include: other.toml") and says.replace("t.toml", "other.toml") in message


@pytest.mark.parametrize("variants", [{}, {"scale": "tiny"}])
def test_what_is_included_includes_nothing_itself(variants):
    Path("one.toml").write_text(SOUND)
    Path("some.toml").write_text('schema = 1\nname = "some"\ninclude = ["one.toml"]\n')
    Path("all.toml").write_text('schema = 1\nname = "all"\ninclude = ["some.toml"]\n')
    with pytest.raises(UsageError, match=r"^all.toml: include: some.toml includes others, where one configuration is"):
        sections.request("all.toml", variants)
    with pytest.raises(UsageError, match=r"^some.toml includes others, where one configuration is needed"):
        sections.load("some.toml", variants)


def test_a_variant_that_asks_for_what_cannot_be_is_named():
    text = 'default = {scale = "small"}\n' + SOUND + "[variants.scale.small]\ndataset = {n = -1}\n"
    assert line(text).startswith("t.toml (from t.toml, scale small): dataset.n: ")
    Path("over.toml").write_text('extends = "t.toml"\n[variants.scale.tiny]\ntrain = {lr = "x"}\n')
    with pytest.raises(UsageError, match=r"^over.toml \(from scale tiny\): train: lr: "):
        plan.make(sections.load("over.toml", {"scale": "tiny"}))


def test_files_that_extend_one_another_end():
    Path("a.toml").write_text('extends = "./b.toml"\n' + SOUND)
    Path("b.toml").write_text('extends = "a.toml"\n' + SOUND)
    assert "./b.toml extends itself: " in refused("./b.toml")
    for i in range(40):
        Path(f"{i}.toml").write_text(f'extends = "{i + 1}.toml"\n' + SOUND)
    assert "0.toml extends a chain of more than 16 files" in refused("0.toml")
    Path("35.toml").write_text(SOUND)
    assert sections.load("25.toml").name == "t"


def test_windows_and_old_macs_write_the_same_configuration():
    Path("t.toml").write_text(SOUND)
    wanted = sections.load("t.toml")
    for data in (SOUND.replace("\n", "\r\n"), SOUND.replace("\n", "\r"), "\ufeff" + SOUND, "\ufeff\r\n" + SOUND):
        Path("t.toml").write_bytes(data.encode())
        assert sections.load("t.toml") == wanted


def test_every_preset_is_within_the_bounds():
    for path in overlay.PRESETS.glob("*.toml"):
        assert overlay.parsed(path)


def test_a_plan_within_the_bounds_is_made():
    text = (
        "seeds = [9223372036854775807]\n" + SOUND + "steps = [1, 2]\neps = [0.1, '1e-30', 0]\n[run]\ntimeout = '9m'\n"
    )
    Path("t.toml").write_text(text)
    chosen = sections.load("t.toml")
    assert len(expand.attacks(chosen)) == 12 and chosen.run.timeout == 540


# Flags.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--n", "0"], "--n 0: the number of test images must be at least 1"),
        (["--n", "-3"], "--n -3: the number of test images must be at least 1"),
        (["--n", "9" * 5000], "argument --n"),
        (["--n", "1e3"], "argument --n: invalid int value: '1e3'"),
        (["--n", str(10**30)], "digits has 500 test images"),
        (["--seed", "-1"], "--seed -1: a whole number from 0 to 2^63 - 1 is needed"),
        (["--seed", str(2**70)], "a whole number from 0 to 2^63 - 1 is needed"),
        (["--epochs", "-1"], "--epochs -1"),
        (["--epochs", "9" * 18], "epochs: input should be less than or equal to"),
        (["--shard", "0/3"], "'0/3' is no part such as 1/8"),
        (["--shard", "4/3"], "'4/3' is no part"),
        (["--shard", "1/" + "9" * 5000], "is no part such as 1/8"),
        (["--only", "["], "--only [: no cell matches"),
        (["--only", "(a+)+$"], "--only (a+)+$: no cell matches"),
        (["--only", "*" * 2000 + "y"], "no cell matches"),
        (["--time-budget", "1e999h"], "'1e999h' is no time"),
        (["--time-budget", "9" * 400], "is no time"),
        (["--time-budget", "0"], "is no time"),
        (["--data", "/dev/null"], "--data /dev/null: no such folder"),
        (["--data", "a" * 5000], "argument --data: 'aaa"),
        (["--data", "a" * 400], "no such folder"),
        (["--data", "a\0b"], "argument --data: 'a\\x00b' cannot be a path"),
        (["--store", "a\0b", "--json"], "argument --store: 'a\\x00b' cannot be a path"),
        (["--scale", "tiny"], "unknown scale 'tiny'; there is none"),
    ],
)
def test_a_flag_that_nobody_means_is_one_line(capsys, flags, says):
    Path("t.toml").write_text(SOUND)
    assert main(["plan", "t.toml", *flags]) == 2
    out, err = capsys.readouterr()
    # On a slow machine progress lines come before it.
    assert says in err.splitlines()[-1] and err.count("error: ") == 1 and "Traceback" not in err and not out


def test_a_file_of_another_name_is_told_from_a_preset():
    Path("t.tml").write_text(SOUND)
    assert refused("t.tml") == "t.tml: the name of a configuration file ends with .toml"

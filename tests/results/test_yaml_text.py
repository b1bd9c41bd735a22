"""Text and YAML that people write: what is read, and what is refused with its line."""

import pytest
import yaml

from results.yaml_text import MOST_CHARACTERS, TextError, load_yaml, read_text

# Nine lines that stand for a billion texts, the classic bomb.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, 2.5, true, null, 2026-01-01]\n",
        "base: &base {lr: 0.1}\nown: {<<: *base, lr: 0.2}\nalso: *base\n",
        "name: größe\n",
        "x: !!set {a, b}\n",
        "",
    ],
)
def test_what_is_good_is_read_as_pyyaml_reads_it(text):
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: the key 'a' appears twice, first in line 1"),
        ("x:\n  - {b: 1, c: 2, b: 3}\n", "line 2.*the key 'b' appears twice, first in line 2"),
        ("[" * 10_000, "more than 32 levels"),
        ("{a: " * 10_000, "more than 32 levels"),
        ("\n".join("  " * n + "a:" for n in range(10_000)), "line 32.*more than 32 levels"),
        (BOMB, "aliases make more than"),
        ("a: &a [*a]\n", "an alias is inside its own anchor"),
        ("a: &a {b: {c: *a}}\n", "an alias is inside its own anchor"),
        ('a: "\\ud800"\n', "control character U\\+D800"),
        ('a: "b\\0c"\n', "control character U\\+0000"),
        ('a: "\\e[31m"\n', "control character U\\+001B"),
        ("a: 2026-13-45\n", "'2026-13-45' cannot be read"),
        (f"a: {'9' * 5000}\n", "cannot be read"),
        (f"a: 0x{'f' * 5000}\n", "more than three hundred digits"),
        ("a: !!int x\n", "'x' cannot be read"),
        ("a: !!bool maybe\n", "'maybe' cannot be read"),
        ("a: !!timestamp x\n", "'x' cannot be read"),
        ("a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        ("a: *nowhere\n", "undefined alias 'nowhere'"),
        ("? [a, b]\n: 1\n", "unhashable key"),
        ("a: [\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a:\n\tb: 1\n", "line 2, column 1: a tab is not allowed .*: write spaces instead$"),
        ("a: [1,\t2]\n", "line 1, column 7: a tab is not allowed .*: write spaces instead$"),
        ("a: @b\n", "'@' that cannot start any token"),
        ("a: \x00\n", "unacceptable character"),
    ],
)
def test_what_is_no_yaml_of_ours_is_one_sentence_with_its_line(text, said):
    with pytest.raises(TextError, match=f"^not valid YAML: .*{said}") as caught:
        load_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_by_its_mark_is_read(tmp_path, encoding):
    path, text = tmp_path / "s.yaml", "name: größe\n"
    marked = text if encoding in ("utf-8", "utf-8-sig", "utf-16") else f"\ufeff{text}"
    path.write_bytes(marked.encode(encoding))
    assert load_yaml(read_text(path)) == {"name": "größe"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("name: x\n# größe\n".encode("latin-1"), "not in UTF-8: byte 0xf6 in line 2"),
        ("name: 検査\n".encode("shift-jis"), "not in UTF-8: byte 0x"),
        (b"\xff\xfea", "not in UTF-8"),
        (b"#" * (MOST_CHARACTERS + 1), "longer than 1 MiB"),
    ],
)
def test_other_encodings_and_endless_files_are_refused(tmp_path, raw, said):
    path = tmp_path / "s.yaml"
    path.write_bytes(raw)
    with pytest.raises(TextError, match=said):
        read_text(path)


def test_what_cannot_be_opened_is_a_sentence(tmp_path):
    with pytest.raises(TextError, match="cannot be read"):
        read_text(tmp_path)

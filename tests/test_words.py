import pytest

from consilience import words
from consilience.errors import ConsilienceError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"ball\nbox\n", ("ball", "box")),
        (b"\xef\xbb\xbfball\r\nbox", ("ball", "box")),
        (b"ball\rbox\r", ("ball", "box")),
        (b"ball\n\n  \nbox\nball\n", ("ball", "box")),
        ("café\n犬\n".encode(), ("café", "犬")),
        # Files that were joined, zero-width spaces within and alone, a soft hyphen, a twin.
        (
            "ball\n\ufeffbox\ngold\u200bfish\n\u200b\nblack\u00adbird\nbox\u2060\n".encode(),
            ("ball", "box", "goldfish", "blackbird"),
        ),
    ],
)
def test_concepts_are_read_one_a_line(tmp_path, content, expected):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    assert words.read_concepts(path).words == expected


def test_what_was_left_out_is_said(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"ball\n\nbox\nball\n")
    found = words.read_concepts(path)
    assert found.blank == (2,)
    assert found.repeated == ((4, "ball"),)
    assert found.cleaned == ()
    assert "'ball' (line 4)" in str(found)
    path.write_bytes("ball\n\ufeffbox\nball\u200b\n\u200d\n".encode())
    found = words.read_concepts(path)
    assert (found.blank, found.repeated, found.cleaned) == ((4,), ((3, "ball"),), (2, 3, 4))
    assert "invisible characters removed from line 2, 3, 4" in str(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no concept in it"),
        (b"\n \n", "no concept in it"),
        (b"ball\n\xff\xfe\n", r"line 2: not UTF-8 text \(byte 5\)"),
        (b"a\x00b\n", r"line 1: not UTF-8 text \(byte 1\)"),
        (b"ball\na\x07b\n", r"line 2: 'a\\x07b' holds control characters"),
    ],
)
@pytest.mark.parametrize("read", [words.read_concepts, words.read_class_names])
def test_a_list_that_is_no_list_is_an_error(tmp_path, read, content, said):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    said = said.replace("concept", "class") if read is words.read_class_names else said
    with pytest.raises(ConsilienceError, match=rf"words\.txt(: |, ){said}"):
        read(path)


def test_class_names_keep_their_places(tmp_path):
    path = tmp_path / "classes.txt"
    # A class that the list leaves out, two of one name, a separator that is no line's end.
    path.write_text("\ufeffcrane\r\n\r\n crane \r\nab\u2028c\n\n\n")
    assert words.read_class_names(path) == ("crane", "", "crane", "ab\u2028c")


def test_places365s_own_list_of_classes_is_taken_as_it_is(tmp_path):
    path = tmp_path / "categories_places365.txt"
    path.write_text("/a/airfield 0\n/a/apartment_building/outdoor 1\n/z/zen_garden 2\n")
    names = words.read_class_names(path)
    assert names == ("airfield", "apartment_building/outdoor", "zen_garden")
    path.write_text("/a/airfield 0\n/z/zen_garden 2\n")
    with pytest.raises(ConsilienceError, match="line 2: numbered 2 instead of 1"):
        words.read_class_names(path)
    path.write_text("/a/airfield 0\nzen garden\n")  # not that list
    assert words.read_class_names(path) == ("/a/airfield 0", "zen garden")


def test_the_real_list_of_places_has_365(real_data):
    names = words.read_class_names(real_data / "concepts/categories_places365.txt")
    assert len(set(names)) == len(names) == 365
    assert not any("/" in name[:2] or name[-1].isdigit() for name in names)


def test_a_number_too_long_for_one_is_no_number(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(f"/a/airfield {'0' * 5000}\n")
    assert words.read_class_names(path) == (f"/a/airfield {'0' * 5000}",)

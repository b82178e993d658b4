import pytest
from hypothesis import given
from hypothesis import strategies as st

from danet.config import Split
from danet.data.listing import read_layout
from danet.data.split import assign_split, choose_split, group_of, suggest_groups
from danet.errors import InputError

STEMS = st.lists(st.text("abc_0129/é", min_size=1, max_size=8), unique=True, max_size=30)


@pytest.mark.parametrize(
    ("stem", "groups", "group"),
    [
        ("drive2_0001", None, "drive2_0001"),
        ("drive2_0001", "prefix", "drive2"),
        ("0006R0_f00930", "prefix", "0006R0"),
        ("病人 3-12", "prefix", "病人 3"),
        ("IMG0001", "prefix", "IMG0001"),
        ("a/b/1", "folder", "a/b"),
        ("1", "folder", "1"),
        ("x/patient12-3", r"patient(\d+)", "12"),
        ("x/patient12-3", r"patient\d+", "patient12"),
        ("x/1", r"patient\d+", "x/1"),
    ],
)
def test_groups_by_names(stem, groups, group):
    assert group_of(stem, groups) == group


@given(STEMS, st.sampled_from([None, "folder", "prefix", "^."]), st.integers(0, 9))
def test_a_group_is_never_torn_and_a_name_decides_alone(stems, groups, seed):
    rule = Split(groups=groups, seed=seed, val=0.5)
    split = assign_split(stems, rule)
    assert list(split) == stems
    for one in stems:
        assert assign_split([one], rule) == {one: split[one]}
        assert {split[other] for other in stems if group_of(other, groups) == group_of(one, groups)} == {split[one]}


def test_shares_seeds_and_folders():
    stems = [f"image {number}" for number in range(3000)]
    for val in (0.1, 0.2, 0.5):
        share = list(assign_split(stems, Split(val=val)).values()).count("val") / len(stems)
        assert share == pytest.approx(val, abs=0.03)
    assert assign_split(stems, Split(seed=1)) != assign_split(stems, Split(seed=2))
    assert assign_split(["val/a", "train/b/c", "train"], Split(val=0.001)) == {
        "val/a": "val",
        "train/b/c": "train",
        "train": "train",
    }
    spelt = [list(assign_split([name], Split(val=0.5, seed=3)).values()) for name in ("cafe\u0301", "caf\u00e9")]
    assert spelt[0] == spelt[1]


def test_the_names_suggest_groups_only_where_there_are_some():
    assert suggest_groups([f"{drive}_{number}" for drive in "abc" for number in range(9)]) == "prefix"
    assert suggest_groups([f"{drive}/{number}" for drive in "abc" for number in range(9)]) == "folder"
    assert suggest_groups([f"street_{number}" for number in range(9)]) is None
    assert suggest_groups([f"{number}_1" for number in range(9)]) is None


def test_the_chosen_seed_leaves_no_class_out_where_that_is_possible():
    classes = {f"image {number}": {0, 1} if number in (3, 4) else {0} for number in range(20)}
    rule = choose_split(classes, None, 0.2)
    split = assign_split(classes, rule)
    assert {split["image 3"], split["image 4"]} == {"train", "val"}
    assert list(split.values()).count("val") == 4
    with pytest.raises(InputError, match=r"Too little to split .* \(images: 20, groups by prefix: 1\)"):
        choose_split({f"image_{number}": {0} for number in range(20)}, "prefix", 0.2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("split: {val: 1}", r"split: val is 1; input should be less than 1"),
        ("split: {groups: '('}", r"split: groups is '\('; it must be folder, prefix or a regular expression"),
        ("split: {group: prefix}", r"split: there is no key group\. Did you mean groups"),
        ("split: 0.2", r"split is 0\.2; write its fields, such as val: 0\.2"),
        ("folders: {imges: a}", r"folders: there is no key imges\. Did you mean images"),
    ],
)
def test_a_wrong_entry_of_labels_yaml_is_named(tmp_path, text, told):
    (tmp_path / "labels.yaml").write_text(f"names: [a]\n{text}\n")
    with pytest.raises(InputError, match=told):
        read_layout(tmp_path / "labels.yaml")

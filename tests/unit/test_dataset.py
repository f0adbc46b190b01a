"""What is drawn from data sets for training, and what is left out."""

from spamguard.training.dataset import OWN_CORPUS, Example, select, without_duplicates


def message(corpus, number, label="ham", **more):
    return Example(
        path=f"{corpus}/{number}",
        label=label,
        corpus=corpus,
        text=f"text {number}",
        **({"group": f"{corpus}-{number % 3}", "fingerprint": f"{corpus}-{number}"} | more),
    )


def test_a_large_source_is_capped_evenly_over_its_groups_and_our_own_texts_are_all_taken():
    large = [message("large", n) for n in range(60)]
    own = [message(OWN_CORPUS, n, "spam") for n in range(50)]
    chosen = select([*large, *own], most_per_cell=9, seed=1)
    assert sorted(e.path for e in chosen if e.corpus == OWN_CORPUS) == sorted(e.path for e in own)
    groups = [e.group for e in chosen if e.corpus == "large"]
    assert {group: groups.count(group) for group in groups} == {
        "large-0": 3,
        "large-1": 3,
        "large-2": 3,
    }


def test_a_message_with_both_labels_or_a_wrong_one_is_left_out():
    kept = without_duplicates(
        [
            message("a", 1),
            message("b", 1, fingerprint="a-1"),
            message("a", 2),
            message("c", 2, "spam", fingerprint="a-2"),
            message("lists_spam", 3, "spam", fingerprint="7bab3c7187" + "0" * 54),
        ]
    )
    assert [e.path for e in kept] == ["a/1"]

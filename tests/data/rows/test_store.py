"""Token files: written in pieces, read by mapping, readable by safetensors; encoded rows with marks, tags and targets."""

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.findings import Finding, Tally
from fulgurite.data.rows import store
from fulgurite.data.rows.collate import CausalLMCollator, Seq2SeqCollator
from fulgurite.data.rows.encoded import IGNORE_INDEX, EncodedRows, SelectedRows
from fulgurite.data.rows.packed import PackedRows
from fulgurite.data.rows.store import TokenWriter, cache_key, load_or_write, open_rows
from fulgurite.data.rows.writing import selected, tags_of, tally_of, write_conversations
from fulgurite.data.sampling.windows import Batch

ROWS = [
    (([5, 6, 7], [False, True, True], 9, None), "fr"),
    (([8], [True], 1, None), None),
    (([9, 10], [True, True], 2, None), "en"),
    (([11, 12, 13, 14], [False, False, False, True], 4, None), "fr"),
]


def written(path: Path, *parts: list[Any], seq2seq: bool = False) -> Path:
    with TokenWriter(path, seq2seq) as writer:
        for part in parts:
            writer.add(part)
        writer.finish({"note": "é"})
    return path


def test_pieces_are_joined_and_safetensors_reads_them(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = written(tmp_path / "deep" / "a.safetensors", ROWS[:1], [], ROWS[1:])
    rows = open_rows(path)
    assert rows.tensors["input_ids"].tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert rows.tensors["offsets"].tolist() == [0, 3, 4, 6, 10] and rows.lengths.tolist() == [3, 1, 2, 4]
    assert rows.tensors["full_length"].tolist() == [9, 1, 2, 4]
    assert rows.tensors["tag"].tolist() == [0, -1, 1, 0] and tags_of(rows) == ["fr", "en"]
    assert rows.metadata["note"] == "é"
    with safe_open(path, "pt") as file:
        for name, tensor in rows.tensors.items():
            other = file.get_tensor(name)
            assert other.dtype == tensor.dtype and torch.equal(other, tensor), name
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in rows.tensors.values())


def test_every_header_length_leaves_the_tensors_aligned(tmp_path: Path) -> None:
    for length in range(8):
        with TokenWriter(tmp_path / "a.safetensors") as writer:
            writer.add(ROWS)
            writer.finish({"note": "x" * length})
        rows = open_rows(tmp_path / "a.safetensors")
        assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in rows.tensors.values())


def test_rows_are_mapped_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", ROWS)
    rows = open_rows(path)
    with path.open("r+b") as file:
        data = file.read()
        place = data.index(b"\x05\x00\x00\x00\x06\x00\x00\x00")
        file.seek(place)
        file.write(b"\x2a")
    assert rows[0]["input_ids"].tolist() == [42, 6, 7]  # what another process writes is seen: the pages are the file's
    rows.tensors["input_ids"][1] = 77  # and what is written here stays here
    assert store.MappedRows(path)[0]["input_ids"].tolist() == [42, 6, 7]


def test_labels_targets_and_tags_of_rows(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.safetensors", ROWS))
    labels = [rows[i]["labels"].tolist() for i in range(4)]
    x = IGNORE_INDEX
    assert labels == [[x, 6, 7], [x], [x, 10], [x, x, x, 14]]  # nothing stands before a row's first token
    assert rows.targets().tolist() == [2, 0, 1, 1] == [sum(v != x for v in row) for row in labels]
    assert [int(rows[i]["tag"]) for i in range(4)] == [0, -1, 1, 0]
    taken = rows.take([3, 0, 3])
    assert [taken[i]["labels"].tolist() for i in range(3)] == [labels[3], labels[0], labels[3]]
    assert taken.tensors["tag"].tolist() == [0, 0, 0] and taken.targets().tolist() == [1, 2, 1]
    chosen = SelectedRows(rows, torch.tensor([2, 0, 2]))
    assert (len(chosen), chosen.lengths.tolist(), chosen.targets().tolist()) == (3, [2, 3, 2], [1, 2, 1])
    assert chosen[2]["labels"].tolist() == labels[2]


def test_targets_over_more_rows_than_one_chunk_counts(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 5, (9000,), generator=generator)
    marks = torch.rand(int(lengths.sum()), generator=generator) < 0.5
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    rows = EncodedRows(
        {
            "input_ids": torch.arange(len(marks), dtype=torch.int32),
            "offsets": offsets,
            "full_length": lengths.int(),
            "supervised": marks,
        }
    )
    assert rows.targets().tolist() == [int(marks[a + 1 : b].sum()) for a, b in pairwise(offsets.tolist())]


def test_rows_sent_to_another_process_are_opened_there(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.safetensors", ROWS)).with_tag(torch.tensor([3, 2, 1, 0], dtype=torch.int32))
    sent = pickle.dumps(rows)
    assert len(sent) < 2000
    assert pickle.loads(sent).tensors["tag"].tolist() == [3, 2, 1, 0]
    bare = pickle.loads(pickle.dumps(rows.with_tag(None)))
    assert "tag" not in bare[0] and torch.equal(bare.tensors["input_ids"], rows.tensors["input_ids"])


def test_pairs_for_encoder_decoders(tmp_path: Path) -> None:
    pairs = [(([1, 2, 3], [7, 8], 5, None), None), (([4], [9], 2, None), None), (([5, 6], [], 2, None), "a")]
    rows = open_rows(written(tmp_path / "a.safetensors", pairs, seq2seq=True))
    assert [rows[i]["labels"].tolist() for i in range(3)] == [[7, 8], [9], []]
    assert rows.targets().tolist() == [2, 1, 0] and rows.take([1, 0]).targets().tolist() == [1, 2]
    batch = Seq2SeqCollator(0)(([rows[0], rows[1]], Batch((0, 1), 0, 3)))
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]] and batch["labels"].tolist() == [
        [7, 8],
        [9, IGNORE_INDEX],
    ]
    assert batch["tokens_in_window"].item() == 3


def test_the_collator_takes_labels_where_rows_have_them(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path / "a.safetensors", ROWS))
    x = IGNORE_INDEX
    batch = CausalLMCollator(0, 2)(([rows[0], rows[2]], Batch((0, 2), 1, 5)))
    assert batch["labels"].tolist() == [[x, 6, 7, x], [x, x, x, x]]
    assert batch["tag"].tolist() == [0, 1] and batch["attention_mask"].sum().item() == 5


def test_unfinished_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(RuntimeError), TokenWriter(path) as writer:
        writer.add(ROWS)
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    calls = []

    def write() -> None:
        calls.append(1)
        written(path, ROWS)

    assert len(load_or_write(path, write)) == len(load_or_write(path, write)) == 4 and len(calls) == 1
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"x", whole[:5], b"", b"\xff" * 40, (8).to_bytes(8, "little") + b'{"a": 1}'):
        path.write_bytes(damaged)
        assert len(load_or_write(path, write)) == 4
    assert len(calls) == 7 and path.read_bytes() == whole
    with pytest.raises(ValueError, match="2 marks for 1 tokens"), TokenWriter(path) as writer:
        writer.add([(([1], [True, False], 1, None), None)])


def flipped(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))


def test_a_flipped_bit_anywhere_is_noticed_and_the_file_made_again(tmp_path: Path, caplog: Any) -> None:
    path = written(tmp_path / "a.safetensors", ROWS)
    whole = path.read_bytes()
    rows, harmless = open_rows(path), 0
    for place in range(len(whole)):
        path.write_bytes(whole)
        flipped(path, place, place % 8)
        try:
            again = open_rows(path)
        except (ValueError, KeyError, TypeError):
            continue
        # Shapes in the header, which nobody reads, spaces between its values, the name of the checksum.
        harmless += 1
        assert {key: again.metadata.get(key) for key in rows.metadata} == rows.metadata, place
        assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in rows.tensors.items()), place
        assert torch.equal(again.record, rows.record) and torch.equal(again.groups, rows.groups)
    assert harmless < 0.2 * len(whole)
    flipped(path, len(whole) - 1, 0)
    made = load_or_write(path, lambda: written(path, ROWS) and None)
    assert len(made) == 4 and path.read_bytes() == whole
    assert "the checksum differs" in caplog.text and "it is built again" in caplog.text


def test_rows_of_classifiers_and_trees_have_a_checksum_too(tmp_path: Path, caplog: Any) -> None:
    rows = EncodedRows(
        {
            "input_ids": torch.arange(4, dtype=torch.int32),
            "offsets": torch.tensor([0, 2, 4]),
            "full_length": torch.tensor([2, 2]),
        }
    )
    built = []
    for _ in range(2):
        store.load_or_build(tmp_path, "a", lambda: built.append(1) or rows)
    assert len(built) == 1
    flipped(tmp_path / "a.safetensors", -3, 1)
    again = store.load_or_build(tmp_path, "a", lambda: built.append(1) or rows)
    assert (
        len(built) == 2
        and "the checksum differs" in caplog.text
        and torch.equal(again.tensors["input_ids"], rows.tensors["input_ids"])
    )


def test_tensors_of_any_layout_have_a_checksum(tmp_path: Path) -> None:
    from fulgurite.data.rows.checksums import read_checked, write_checked

    tensors = {
        "expanded": torch.ones((), dtype=torch.int32).expand(1),
        "spread": torch.ones((), dtype=torch.float32).expand(3),
        "empty": torch.ones(0, dtype=torch.int64),
        "number": torch.tensor(2.5),
        "turned": torch.arange(6).reshape(2, 3).t(),
        "marks": torch.tensor([True, False]),
    }
    write_checked(tensors, tmp_path / "a.safetensors", {"note": "a"})
    again, metadata = read_checked(tmp_path / "a.safetensors")
    assert metadata == {"note": "a"} and all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_files_of_earlier_versions_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = written(tmp_path / "a.safetensors", ROWS)
    save_file(load_file(path), path, {"tag_names": '["fr", "en"]'})
    assert len(open_rows(path)) == 4


def test_a_worker_that_opens_the_rows_does_not_read_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_rows(written(tmp_path / "a.safetensors", ROWS))
    monkeypatch.setattr(store, "check", lambda *_: pytest.fail("read again"))
    assert len(pickle.loads(pickle.dumps(rows))) == 4


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="set cache_dir or"), TokenWriter(tmp_path / "file" / "a.safetensors"):
        pass


def test_encoding_in_chunks_counts_what_is_left_out(tmp_path: Path) -> None:
    class Left:
        where = "x, line 1"
        reason = "longer than max_length"

    sizes = []

    def encode(chunk: Any) -> Any:
        sizes.append(len(chunk))
        return [[([c.row], [True], 1, "cut" if c.row % 1000 == 0 else None)] if c.row % 3 else [Left()] for c in chunk]

    conversations = (Conversation((Turn("text", "t"),), "x", row, "a") for row in range(2500))
    path = tmp_path / "a.safetensors"
    read = Tally(rows=2600, kept=2500, counts={"empty text": 100}, first={"empty text": ["y"]})
    with TokenWriter(path) as writer:
        tally = write_conversations(writer, conversations, encode, lambda: read)
        writer.finish({"tally": json.dumps(tally.state())})
    assert sizes == [1000, 1000, 500]
    rows = open_rows(path)
    assert len(rows) == 1666 and rows.tensors["input_ids"][:3].tolist() == [1, 2, 4]
    again = tally_of(rows)
    assert again == tally and again.counts == {"empty text": 100, "longer than max_length": 834}
    assert again.notes == {"cut": 2} and again.kept == 1666 and again.lost == 934
    assert again.lines()[0] == "834 left out, longer than max_length: " + "; ".join(["x, line 1"] * 3) + "; …"
    assert again.lines()[-1].startswith("2 kept, cut: x, row 1000; x, row 2000")


def test_a_finding_means_a_loss_unless_it_says_otherwise() -> None:
    assert Finding("x", "y", "z").lost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supervised": torch.ones(3, dtype=torch.bool)}, "3 marks 'supervised' for 4 tokens"),
        ({"target_ids": torch.ones(3)}, "target_offsets do not fit"),
        ({"target_ids": torch.ones(3), "target_offsets": torch.tensor([0, 3])}, "target_offsets do not fit"),
        ({"target_ids": torch.ones(3), "target_offsets": torch.tensor([0, 1, 2])}, "target_offsets do not fit"),
    ],
)
def test_rows_whose_parts_do_not_fit(change: dict[str, torch.Tensor], message: str) -> None:
    tensors = {"input_ids": torch.ones(4), "offsets": torch.tensor([0, 2, 4]), "full_length": torch.tensor([2, 2])}
    with pytest.raises(ValueError, match=message):
        EncodedRows({**tensors, **change})


def test_a_cache_of_another_format_is_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Another format number is another key; a file of an older layout under a key of today is made again, which is said."""
    from safetensors.torch import load_file, save_file

    key = cache_key("rows")
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert cache_key("rows") != key
    path = written(tmp_path / "a.safetensors", ROWS)
    old = {name: tensor for name, tensor in load_file(path).items() if name not in ("group", "record")}
    save_file(old, path, {"tag_names": "[]"})

    def write() -> None:
        written(path, ROWS[:2])

    assert len(load_or_write(path, write)) == 2
    assert "is damaged" in caplog.text and "it is built again" in caplog.text


def test_selections_of_one_file(tmp_path: Path) -> None:
    """Groups are never divided, records without rows count for the division and not for a limit, and packs read the tokens."""
    groups = [7, 7, 3, 9, 9, 1, 4, 4, 2, 8]
    path = tmp_path / "a.safetensors"
    with TokenWriter(path) as writer:
        assert writer.add_records(groups[:6]) == 0 and writer.add_records(groups[6:]) == 6
        kept = [record for record in range(10) if record not in (2, 8)]
        writer.add([(([record, record + 1], [False, True], 2, None), str(groups[record])) for record in kept], kept)
        writer.finish({})
    rows = open_rows(path)
    assert selected(rows, "all", 0.3) is rows
    train, val = (selected(rows, part, 0.3) for part in ("train", "held out"))
    assert [int(row["input_ids"][0]) for row in (val[i] for i in range(len(val)))] == [
        5
    ]  # groups 1, 2 and 3 of ten records
    assert [int(train[i]["input_ids"][0]) for i in range(len(train))] == [0, 1, 3, 4, 6, 7, 9]
    assert train.lengths.tolist() == [2] * 7 and train.targets().tolist() == [1] * 7
    names = tags_of(rows)
    assert [names[tag] for tag in train.tensors["tag"].tolist()] == ["7", "7", "9", "9", "4", "4", "8"]
    for limit in (1, 3, 7, 9):
        few = selected(rows, "train", 0.3, limit, seed=1)
        more = selected(rows, "train", 0.3, limit + 1, seed=1)
        assert len(few) == min(limit, 7)
        assert {int(few[i]["input_ids"][0]) for i in range(len(few))} <= {
            int(more[i]["input_ids"][0]) for i in range(len(more))
        }
    packs = PackedRows(train, [[0, 6], [1, 2]])
    assert (
        packs[0]["input_ids"].tolist() == [0, 1, 9, 10]
        and packs[0]["tag"].tolist() == train.tensors["tag"][[0, 6]].tolist()
    )
    sent = pickle.dumps(train)
    assert len(sent) < 3000 and pickle.loads(sent)[2]["input_ids"].tolist() == [3, 4]
    assert train.take([6, 0]).tensors["input_ids"].tolist() == [9, 10, 0, 1]

"""What is learned from offline, wherever it is: a dataset as it is, or bags, of which one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from polo_ros.replay.bag_dataset import from_bags
from polo_ros.replay.bag_reader import file_sizes
from polo_ros.replay.dataset import Dataset, DatasetError


def open_data(source: str, folder: Path, task: str = "", between: Callable[[], None] = lambda: None) -> Dataset:
    """A verified dataset.

    Args:
        source: A dataset's folder; or bags, separated by commas: folders, .mcap files or run folders.
        folder: Where the dataset of bags is, or will be made.
        task: What it must be of; empty: whatever it is of.
        between: Called often; what it raises ends the work, and no half-made dataset is left.

    Raises:
        DatasetError: Nothing is named, it is of another task or damaged, or `folder` holds one of other bags, or of
            these when they held something else. Bags that are gone since are not missed.
        BagError: A bag cannot be read.
    """
    paths = [Path(path.strip()) for path in source.split(",") if path.strip()]
    if not paths:
        raise DatasetError("data is empty: name a dataset, or bags separated by commas")
    if len(paths) == 1 and (paths[0] / "dataset.json").exists():
        data = Dataset.open(paths[0])
    elif folder.exists():
        data = Dataset.open(folder)
        _compare(data, paths)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        from_bags(paths, folder, task, between=between)
        data = Dataset.open(folder)
    if task and data.task != task:
        raise DatasetError(f"{data.path} is of task '{data.task}', expected '{task}'")
    data.verify(between)
    return data


def _compare(data: Dataset, paths: Sequence[Path]) -> None:
    """Raise DatasetError unless `data` was made of these bags as they are."""
    made = {source["path"] for source in data.summary()["sources"]}
    if made != {str(path) for path in paths}:
        named = ", ".join(str(path) for path in paths)
        raise DatasetError(f"{data.path} was made of {', '.join(sorted(made))}, not of {named}: name another folder")
    for path in paths:
        then, now = data.facts.get("bags", {}).get(str(path), {}), file_sizes(path)
        changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        if path.exists() and changed:
            name = changed[0]
            raise DatasetError(
                f"{path} has changed since {data.path} was made of it: {name} has {now.get(name, 0)} bytes, had "
                f"{then.get(name, 0)}; name another folder to learn from what it holds now, or {data.path} as the data "
                "to go on with what it held then"
            )

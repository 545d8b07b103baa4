"""The Text2DT measures: how far a predicted decision tree is from the gold one, as officially counted.

A tree comes as its nodes in preorder: conditions (role C) with exactly two children each, and decisions (role
D). Nothing forces a prediction to be a tree, and what the official code then does is kept here: nodes that no
walk from the root reaches cost nothing, and a broken tree's paths all count as wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from typing import Any

from medtune.evaluation.promptcblue.errors import MetricError

MAX_FOLDS = 101  # the official loop gives up here, leaving the rest of a large tree unconnected
COUNT_START = 0.000001  # the official counters start there, against division by zero


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the metric sees it: case and the order of triples do not matter."""

    role: str
    logical_rel: str
    triples: frozenset[tuple[str, str, str]]
    is_filled: bool


ABSENT = Node("", "null", frozenset(), is_filled=False)


@dataclass(slots=True)
class Tree:
    """Nodes in preorder and who is whose child; ``parents`` has the side (L or R) with the parent."""

    nodes: list[Node]
    children: dict[int, tuple[int, int]]
    parents: dict[int, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class TreeCounts:
    """What one pair of trees adds to the sums, in the official order."""

    trees: int
    equal_trees: int
    right_triples: int
    predicted_triples: int
    gold_triples: int
    right_paths: int
    predicted_paths: int
    gold_paths: int
    edits: int
    right_nodes: int
    predicted_nodes: int
    gold_nodes: int

    @property
    def most_edits(self) -> int:
        """What the edits are divided by."""
        triples = self.predicted_triples + self.gold_triples
        return triples + 2 * (self.predicted_nodes + self.gold_nodes)


def _lower_triple(triple: Any) -> tuple[str, str, str]:
    try:
        head, relation, tail = (triple[place].lower() for place in range(3))
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise MetricError(f"{triple!r:.60} is no triple of strings") from error
    if len(triple) != 3:
        raise MetricError(f"{triple!r:.60} has {len(triple)} elements, not 3")
    return head, relation, tail


def build_tree(records: Sequence[Mapping[str, Any]]) -> Tree:
    """Connects nodes that are listed in preorder.

    Raises:
        MetricError: There is no node, or a triple is not made of three strings.
    """
    if not records:
        raise MetricError("a tree without nodes")
    nodes = []
    for record in records:
        triples = frozenset(_lower_triple(triple) for triple in record["triples"])
        nodes.append(Node(record["role"], record["logical_rel"], triples, is_filled=bool(triples)))
    tree = Tree(nodes, {}, {})
    _connect_nodes(tree)
    return tree


def _connect_nodes(tree: Tree) -> None:
    """Folds the leftmost condition that is followed by two decisions into a decision, again and again."""
    roles = [node.role for node in tree.nodes]
    for _ in range(MAX_FOLDS):
        fold = None if roles[0] == "D" else _find_fold(roles)
        if fold is None:
            return
        parent, left, right = fold
        tree.children[parent] = (left, right)
        tree.parents |= {left: (parent, "L"), right: (parent, "R")}
        roles[parent] = "D"
        roles[parent + 1 : right + 1] = "X" * (right - parent)


def _find_fold(roles: Sequence[str]) -> tuple[int, int, int] | None:
    """Returns the first condition with two decisions before the next condition, and those two."""
    parent, leaf = None, None
    for index, role in enumerate(roles):
        if role == "C":
            parent, leaf = index, None
        elif role == "D" and parent is not None:
            if leaf is not None:
                return parent, leaf, index
            leaf = index
    return None


def _count_edits(one: Node, other: Node) -> int:
    return (
        (one.role != other.role) + (one.logical_rel != other.logical_rel) + len(one.triples ^ other.triples)
    )


def _walk_below(tree: Tree, index: int) -> Iterator[Node]:
    stack = list(tree.children.get(index, ()))
    while stack:
        below = stack.pop()
        yield tree.nodes[below]
        stack.extend(tree.children.get(below, ()))


def measure_edits(predicted: Tree, gold: Tree) -> int:
    """Returns how many edits turn one tree into the other, walking both from the root together."""
    edits = 0
    stack = [(0, 0)]
    while stack:
        one, other = stack.pop()
        edits += _count_edits(predicted.nodes[one], gold.nodes[other])
        below, gold_below = predicted.children.get(one), gold.children.get(other)
        if below and gold_below:
            stack += zip(below, gold_below, strict=True)
        else:
            missing = chain(_walk_below(predicted, one), _walk_below(gold, other))
            edits += sum(_count_edits(node, ABSENT) for node in missing)
    return edits


def _list_paths(tree: Tree) -> tuple[list[tuple[Any, ...]], bool]:
    """Returns the paths from leaf to root, up to the first leaf without one, and whether that was none."""
    paths: list[tuple[Any, ...]] = []
    for leaf in range(len(tree.nodes)):
        if leaf in tree.children:
            continue
        index = leaf
        steps: list[Any] = [tree.nodes[leaf]]
        while index != 0:
            if index not in tree.parents:
                return paths, False
            index, side = tree.parents[index]
            steps += (side, tree.nodes[index])
        paths.append(tuple(steps))
    return paths, True


def _compare_paths(predicted: Tree, gold: Tree) -> tuple[int, int, int]:
    """Returns right, predicted and gold paths. A broken tree leaves nothing right and the rest uncounted."""
    paths, is_whole = _list_paths(predicted)
    if not is_whole:
        return 0, len(paths), 0
    gold_paths, is_whole = _list_paths(gold)
    if not is_whole:
        return 0, len(paths), len(gold_paths)
    known = set(gold_paths)
    return sum(path in known for path in paths), len(paths), len(gold_paths)


def compare_trees(predicted: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]]) -> TreeCounts:
    """Returns everything that is counted for one pair of trees.

    Raises:
        MetricError: Where the official code dies: no node, or a triple that is not made of three strings.
    """
    one, other = build_tree(predicted), build_tree(gold)
    triples, gold_triples = (set().union(*(node.triples for node in tree.nodes)) for tree in (one, other))
    filled, gold_filled = (Counter(node for node in tree.nodes if node.is_filled) for tree in (one, other))
    right_paths, num_paths, num_gold_paths = _compare_paths(one, other)
    return TreeCounts(
        trees=1,
        equal_trees=int(one.nodes == other.nodes),
        right_triples=len(triples & gold_triples),
        predicted_triples=len(triples),
        gold_triples=len(gold_triples),
        right_paths=right_paths,
        predicted_paths=num_paths,
        gold_paths=num_gold_paths,
        edits=measure_edits(one, other),
        # Each pair of equal nodes counts, so that repeated nodes can bring F1 above 1.
        right_nodes=sum(count * gold_filled[node] for node, count in filled.items()),
        predicted_nodes=filled.total(),
        gold_nodes=gold_filled.total(),
    )


def _balance(right: float, predicted: float, gold: float) -> float:
    precision = (right + COUNT_START) / (predicted + COUNT_START)
    recall = (right + COUNT_START) / (gold + COUNT_START)
    return 2 * precision * recall / (precision + recall)


def score_counts(counts: Sequence[TreeCounts]) -> tuple[float, float, float]:
    """Returns the edit ratio (1 is perfect, below 0 is possible), node F1 and path F1 (up to and above 1).

    Raises:
        MetricError: No tree has a single triple, and the official code divides by their number.
    """
    total = TreeCounts(*map(sum, zip(*map(astuple, counts), strict=True)))
    if not total.most_edits:
        raise MetricError("no tree has a triple, neither predicted nor gold: division by zero")
    return (
        1 - total.edits / total.most_edits,
        _balance(total.right_nodes, total.predicted_nodes, total.gold_nodes),
        _balance(total.right_paths, total.predicted_paths, total.gold_paths),
    )


def score_trees(
    golds: Sequence[Sequence[Mapping[str, Any]]], predictions: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[float, float, float]:
    """As :func:`score_counts`, of the trees themselves.

    Raises:
        MetricError: Where the official code dies.
    """
    return score_counts(
        [compare_trees(predicted, gold) for gold, predicted in zip(golds, predictions, strict=True)]
    )

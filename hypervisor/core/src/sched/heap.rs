//! A binary heap over numbered items, each in it at most once, with room for all of them.
//!
//! Keys are compared by their difference as a signed number, so they may wrap as long as all keys
//! in a heap lie within 2^63 of each other.

use alloc::boxed::Box;
use alloc::vec;

use crate::addr::convert::{index, wide};

/// An item with its key.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    key: u64,
    item: u32,
}

/// The heap; the least key is on top.
#[derive(Debug)]
pub(super) struct Heap {
    nodes: Box<[Node]>,
    length: usize,
    /// Index in `nodes` of each item, if it is in.
    places: Box<[Option<u32>]>,
}

/// Whether key `a` comes before key `b`.
pub(super) const fn before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b) > u64::MAX >> 1
}

/// The later of two keys.
pub(super) const fn later(a: u64, b: u64) -> u64 {
    if before(a, b) { b } else { a }
}

impl Heap {
    /// An empty heap for the items `0..items`.
    pub(super) fn new(items: usize) -> Heap {
        Heap {
            nodes: vec![Node::default(); items].into_boxed_slice(),
            length: 0,
            places: vec![None; items].into_boxed_slice(),
        }
    }

    /// The item with the least key, and that key.
    pub(super) fn top(&self) -> Option<(u32, u64)> {
        let node = self.nodes.get(..self.length)?.first()?;
        Some((node.item, node.key))
    }

    /// Whether nothing is in.
    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts an item in, or gives it another key.
    pub(super) fn set(&mut self, item: u32, key: u64) {
        let node = Node { key, item };
        let Some(place) = self.places.get(index(u64::from(item))) else {
            return;
        };
        let at = if let Some(at) = *place {
            index(u64::from(at))
        } else {
            self.length = self.length.saturating_add(1);
            self.length.saturating_sub(1)
        };
        let at = self.rise(at, node);
        self.sink(at, node);
    }

    /// Takes an item out, if it is in.
    pub(super) fn remove(&mut self, item: u32) {
        let Some(place) = self.places.get_mut(index(u64::from(item))) else {
            return;
        };
        let Some(at) = place.take() else {
            return;
        };
        let at = index(u64::from(at));
        self.length = self.length.saturating_sub(1);
        let Some(last) = self.nodes.get(self.length).copied() else {
            return;
        };
        if at < self.length {
            let at = self.rise(at, last);
            self.sink(at, last);
        }
    }

    /// Moves the gap at `at` up until `node` fits; where that is.
    fn rise(&mut self, mut at: usize, node: Node) -> usize {
        while let Some(parent) = at.checked_sub(1).map(|below| below / 2) {
            match self.nodes.get(parent).copied() {
                Some(above) if before(node.key, above.key) => self.place(at, above),
                _ => break,
            }
            at = parent;
        }
        at
    }

    /// Moves the gap at `at` down until `node` fits, and puts it there.
    fn sink(&mut self, mut at: usize, node: Node) {
        while let Some((child, below)) = self.least_child(at) {
            if !before(below.key, node.key) {
                break;
            }
            self.place(at, below);
            at = child;
        }
        self.place(at, node);
    }

    fn least_child(&self, at: usize) -> Option<(usize, Node)> {
        let left = at.saturating_mul(2).saturating_add(1);
        let right = left.saturating_add(1);
        let nodes = self.nodes.get(..self.length)?;
        let first = *nodes.get(left)?;
        match nodes.get(right) {
            Some(second) if before(second.key, first.key) => Some((right, *second)),
            _ => Some((left, first)),
        }
    }

    fn place(&mut self, at: usize, node: Node) {
        if let Some(slot) = self.nodes.get_mut(at) {
            *slot = node;
        }
        if let Some(place) = self.places.get_mut(index(u64::from(node.item))) {
            *place = u32::try_from(wide(at)).ok();
        }
    }
}

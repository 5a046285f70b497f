//! The values that a pickle builds. They refer to each other by number, so that what is changed after
//! it was remembered is changed for all who refer to it, and circles do no harm.

use std::rc::Rc;

/// Values of one pickle; far more than any checkpoint has.
pub(super) const MAX_NODES: usize = 1 << 22;
/// Deeper than any chain of objects that is followed.
pub(super) const MAX_DEPTH: usize = 8;

/// The number of a value.
pub(super) type Ref = u32;

/// A value.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Tuple(Vec<Ref>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// A class or function: module and name.
    Class(Rc<str>, Rc<str>),
    /// What a call of `class` would have made.
    Object(Box<Object>),
    /// A storage, by what identifies it.
    Storage(Ref),
    /// Something that no tensor or setting is made of: bytes, sets, numbers over 64 bits.
    Other,
}

/// An object that was not made.
#[derive(Debug)]
pub(super) struct Object {
    /// What would have been called.
    pub(super) class: Ref,
    /// With what.
    pub(super) arguments: Ref,
    /// Its attributes, set afterwards.
    pub(super) state: Option<Ref>,
    /// Its items, where it is a kind of dict.
    pub(super) items: Vec<(Ref, Ref)>,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Adds a value; `None` when there are too many.
    pub(super) fn add(&mut self, node: Node) -> Option<Ref> {
        if self.nodes.len() >= MAX_NODES {
            return None;
        }
        self.nodes.push(node);
        Ref::try_from(self.nodes.len() - 1).ok()
    }

    pub(super) fn node(&self, at: Ref) -> &Node {
        self.nodes.get(at as usize).unwrap_or(&Node::Other)
    }

    pub(super) fn node_mut(&mut self, at: Ref) -> Option<&mut Node> {
        self.nodes.get_mut(at as usize)
    }

    /// All values, in the order in which they were made.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn text(&self, at: Ref) -> Option<&str> {
        match self.node(at) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self, at: Ref) -> Option<u64> {
        match self.node(at) {
            Node::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The elements of a tuple or list; of a call that makes one of its argument, as `torch.Size`.
    pub(super) fn elements(&self, at: Ref) -> Option<&[Ref]> {
        match self.node(at) {
            Node::Tuple(elements) | Node::List(elements) => Some(elements),
            Node::Object(object) => match self.node(object.arguments) {
                Node::Tuple(arguments) => match arguments.as_slice() {
                    [only] => match self.node(*only) {
                        Node::Tuple(elements) | Node::List(elements) => Some(elements),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// Numbers that count something.
    pub(super) fn counts(&self, at: Ref) -> Option<Vec<u64>> {
        self.elements(at)?.iter().map(|&element| self.count(element)).collect()
    }

    /// The items of a dict or of an object that is a kind of dict, those that it was made with first.
    pub(super) fn items(&self, at: Ref) -> Vec<(Ref, Ref)> {
        match self.node(at) {
            Node::Dict(items) => items.clone(),
            Node::Object(object) => {
                let pair = |&pair: &Ref| match self.node(pair) {
                    Node::Tuple(both) | Node::List(both) if both.len() == 2 => {
                        Some((both[0], both[1]))
                    }
                    _ => None,
                };
                let first = self.elements(at).unwrap_or_default().iter().filter_map(pair);
                first.chain(object.items.iter().copied()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value under a key; the last one where the key comes twice.
    pub(super) fn get(&self, at: Ref, key: &str) -> Option<Ref> {
        let items = self.items(at);
        let found = items.iter().rev().find(|(name, _)| self.text(*name) == Some(key));
        found.map(|(_, value)| *value)
    }

    /// The dict of an object's attributes.
    pub(super) fn attributes(&self, at: Ref) -> Option<Ref> {
        let Node::Object(object) = self.node(at) else { return None };
        let state = object.state?;
        match self.node(state) {
            // Objects with slots have a pair.
            Node::Tuple(both) => both.first().copied(),
            _ => Some(state),
        }
    }

    /// Module and name of a class, or of the class that an object would have been made by.
    pub(super) fn class(&self, at: Ref) -> Option<(&str, &str)> {
        match self.node(at) {
            Node::Class(module, name) => Some((module, name)),
            Node::Object(object) => match self.node(object.class) {
                Node::Class(module, name) => Some((module, name)),
                _ => None,
            },
            _ => None,
        }
    }

    /// What an object was called with.
    pub(super) fn arguments(&self, at: Ref) -> Option<&[Ref]> {
        match self.node(at) {
            Node::Object(object) => match self.node(object.arguments) {
                Node::Tuple(arguments) => Some(arguments),
                _ => None,
            },
            _ => None,
        }
    }
}

//! The machine that pickles are programs of, without what would run code.

use std::collections::HashMap;
use std::io::BufRead;
use std::rc::Rc;

use super::Fault;
use super::graph::{Graph, MAX_NODES, Node, Object, Ref};

/// Longer than any pickle without the tensors themselves.
const MAX_BYTES: u64 = 64 << 20;
/// Deeper than any values lie in each other.
const MAX_MARKS: usize = 1 << 16;

const SHORT: Fault = Fault::Damaged("the pickle ends early");
const MANY: Fault = Fault::Damaged("the pickle has more values than any checkpoint");
const EMPTY: Fault = Fault::Damaged("the pickle takes what is not there");

/// Runs the pickle that begins here, adds its values to `graph` and returns the one that it stands
/// for.
///
/// # Errors
/// It ends early, is damaged, or uses what no checkpoint does.
pub(super) fn run(input: &mut impl BufRead, graph: &mut Graph) -> Result<Ref, Fault> {
    let mut machine = Machine {
        input,
        left: MAX_BYTES,
        graph,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let [opcode] = machine.bytes()?;
        if opcode == b'.' {
            return machine.pop();
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a, R> {
    input: &'a mut R,
    /// Bytes that may still be read.
    left: u64,
    graph: &'a mut Graph,
    stack: Vec<Ref>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
}

impl<R: BufRead> Machine<'_, R> {
    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            // Protocol and frame say nothing that matters here.
            0x80 => self.bytes::<1>().map(drop),
            0x95 => self.bytes::<8>().map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                if self.marks.len() > MAX_MARKS { Err(MANY) } else { Ok(()) }
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_marked().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'h' | b'j' | b'q' | b'r' | 0x94 => self.remember(opcode),
            b'R' | 0x81 | 0x92 | b'b' | b'Q' | b'c' | 0x93 => self.make(opcode),
            b')' | b't' | 0x85..=0x87 | b']' | b'a' | b'e' | b'l' => self.sequence(opcode),
            b'}' | b'd' | b's' | b'u' => self.dict(opcode),
            // Sets.
            0x8f => self.push(Node::Other),
            0x90 => self.pop_marked().map(drop),
            0x91 => {
                self.pop_marked()?;
                self.push(Node::Other)
            }
            _ => self.plain(opcode),
        }
    }

    /// Numbers, texts and bytes.
    fn plain(&mut self, opcode: u8) -> Result<(), Fault> {
        let node = match opcode {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'K' => Node::Int(i64::from(u8::from_le_bytes(self.bytes()?))),
            b'M' => Node::Int(i64::from(u16::from_le_bytes(self.bytes()?))),
            b'J' => Node::Int(i64::from(i32::from_le_bytes(self.bytes()?))),
            b'G' => Node::Float(f64::from_be_bytes(self.bytes()?)),
            0x8a | 0x8b => {
                let length = if opcode == 0x8a { self.length::<1>()? } else { self.length::<4>()? };
                long(&self.take(length)?)
            }
            // Texts, the latter two of Python 2.
            0x8c | b'U' => self.text::<1>()?,
            b'X' | b'T' => self.text::<4>()?,
            0x8d => self.text::<8>()?,
            b'C' => self.skip::<1>()?,
            b'B' => self.skip::<4>()?,
            0x8e | 0x96 => self.skip::<8>()?,
            other => {
                return Err(Fault::Unknown(format!("its pickle has the instruction {other:#04x}")));
            }
        };
        self.push(node)
    }

    fn remember(&mut self, opcode: u8) -> Result<(), Fault> {
        let slot = match opcode {
            b'h' | b'q' => u32::from(u8::from_le_bytes(self.bytes()?)),
            b'j' | b'r' => u32::from_le_bytes(self.bytes()?),
            _ => self.memo.len() as u32,
        };
        if matches!(opcode, b'h' | b'j') {
            let remembered = self.memo.get(&slot).copied();
            self.stack.push(remembered.ok_or(EMPTY)?);
        } else {
            let top = self.top()?;
            self.memo.insert(slot, top);
        }
        if self.memo.len() > MAX_NODES { Err(MANY) } else { Ok(()) }
    }

    /// Classes, and objects that they would make.
    fn make(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Class(module, name))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |at| match self.graph.node(at) {
                    Node::Text(text) => Ok(text.clone()),
                    _ => Err(Fault::Damaged("a class without a name")),
                };
                let class = Node::Class(text(module)?, text(name)?);
                self.push(class)
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Storage(id))
            }
            b'b' => {
                let state = self.pop()?;
                // Attributes of a plain dict, which only damaged files have, are nobody's.
                let top = self.top()?;
                if let Some(Node::Object(object)) = self.graph.node_mut(top) {
                    object.state = Some(state);
                }
                Ok(())
            }
            _ => {
                if opcode == 0x92 {
                    // Arguments by name.
                    self.pop()?;
                }
                let (arguments, class) = (self.pop()?, self.pop()?);
                let object = Object { class, arguments, state: None, items: Vec::new() };
                self.push(Node::Object(Box::new(object)))
            }
        }
    }

    fn sequence(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b't' => {
                let elements = self.pop_marked()?;
                self.push(Node::Tuple(elements))
            }
            b'l' => {
                let elements = self.pop_marked()?;
                self.push(Node::List(elements))
            }
            b'a' | b'e' => {
                let new = match opcode {
                    b'a' => vec![self.pop()?],
                    _ => self.pop_marked()?,
                };
                let top = self.top()?;
                // Elements of subclasses of list are of no use here.
                if let Some(Node::List(elements)) = self.graph.node_mut(top) {
                    elements.extend(new);
                }
                Ok(())
            }
            _ => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).ok_or(EMPTY)?;
                let elements = self.stack.split_off(from);
                self.push(Node::Tuple(elements))
            }
        }
    }

    fn dict(&mut self, opcode: u8) -> Result<(), Fault> {
        if opcode == b'}' {
            return self.push(Node::Dict(Vec::new()));
        }
        let flat = match opcode {
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_marked()?,
        };
        if !flat.len().is_multiple_of(2) {
            return Err(Fault::Damaged("a key without a value"));
        }
        let pairs = flat.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        if opcode == b'd' {
            return self.push(Node::Dict(pairs.collect()));
        }
        let top = self.top()?;
        match self.graph.node_mut(top) {
            Some(Node::Dict(items)) => items.extend(pairs),
            Some(Node::Object(object)) => object.items.extend(pairs),
            _ => return Err(Fault::Damaged("items of what is no dict")),
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        let at = self.graph.add(node);
        let at = at.ok_or(MANY)?;
        self.stack.push(at);
        Ok(())
    }

    fn pop(&mut self) -> Result<Ref, Fault> {
        self.stack.pop().ok_or(EMPTY)
    }

    fn top(&self) -> Result<Ref, Fault> {
        self.stack.last().copied().ok_or(EMPTY)
    }

    fn pop_marked(&mut self) -> Result<Vec<Ref>, Fault> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or(EMPTY)?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.left = self.left.checked_sub(N as u64).ok_or(SHORT)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|_| SHORT)?;
        Ok(bytes)
    }

    /// A length of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<u64, Fault> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.bytes::<N>()?);
        Ok(u64::from_le_bytes(wide))
    }

    /// So many bytes; memory is taken as they come.
    fn take(&mut self, length: u64) -> Result<Vec<u8>, Fault> {
        self.left = self.left.checked_sub(length).ok_or(SHORT)?;
        let mut bytes = Vec::new();
        let mut input = std::io::Read::take(&mut *self.input, length);
        std::io::Read::read_to_end(&mut input, &mut bytes)?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(SHORT) }
    }

    fn text<const N: usize>(&mut self) -> Result<Node, Fault> {
        let length = self.length::<N>()?;
        let bytes = self.take(length)?;
        // Python 2 wrote bytes so, which need not be a text.
        Ok(String::from_utf8(bytes).map_or(Node::Other, |text| Node::Text(text.into())))
    }

    fn skip<const N: usize>(&mut self) -> Result<Node, Fault> {
        let length = self.length::<N>()?;
        self.take(length)?;
        Ok(Node::Other)
    }

    fn line(&mut self) -> Result<Rc<str>, Fault> {
        let mut bytes = Vec::new();
        let mut input = std::io::Read::take(&mut *self.input, self.left);
        let read = input.read_until(b'\n', &mut bytes)?;
        self.left -= read as u64;
        match bytes.pop() {
            Some(b'\n') => {}
            _ => return Err(SHORT),
        }
        let text =
            String::from_utf8(bytes).map_err(|_| Fault::Damaged("a class without a name"))?;
        Ok(text.into())
    }
}

/// A whole number of any length, the little end first.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Other;
    }
    let negative = bytes.last().is_some_and(|&last| last >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(program: &[u8]) -> (Result<Ref, Fault>, Graph) {
        let mut graph = Graph::default();
        let result = run(&mut &*program, &mut graph);
        (result, graph)
    }

    /// `pickle.dumps({"a": (1, -2, 300, 2**40, True, None, 0.5)}, protocol)` for two protocols.
    #[test]
    fn plain_values_of_two_protocols() {
        let two = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\
            \x00\x00\x00\x00\x00\x01\x88NG?\xe0\x00\x00\x00\x00\x00\x00tq\x02s.";
        let four = b"\x80\x04\x95,\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94(K\x01J\xfe\xff\
            \xff\xffM,\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x88NG?\xe0\x00\x00\x00\x00\x00\x00t\
            \x94s.";
        for program in [&two[..], four] {
            let (root, graph) = run_on(program);
            let tuple = graph.get(root.unwrap(), "a").unwrap();
            let values: Vec<&Node> =
                graph.elements(tuple).unwrap().iter().map(|&at| graph.node(at)).collect();
            assert!(
                matches!(
                    values[..],
                    [
                        Node::Int(1),
                        Node::Int(-2),
                        Node::Int(300),
                        Node::Int(0x100_0000_0000),
                        Node::Bool(true),
                        Node::None,
                        Node::Float(0.5)
                    ]
                ),
                "{values:?}"
            );
        }
    }

    /// `x = {}; pickle.dumps([x, x])` with `x["a"] = 1` set after it was remembered.
    #[test]
    fn one_object_with_two_references_is_one() {
        let (root, graph) = run_on(b"\x80\x02](}q\x01X\x01\x00\x00\x00aK\x01sh\x01e.");
        let both = graph.elements(root.unwrap()).unwrap();
        assert_eq!(both[0], both[1]);
        assert!(graph.get(both[1], "a").is_some());
    }

    #[test]
    fn broken_programs_are_told() {
        for program in [
            &b""[..],
            b".",
            b"\x80",
            b"t.",
            b"h\x07.",
            b"\x87.",
            b"(K\x01d.",
            b"K\x01K\x02K\x03s.",
            b"X\xff\xff\xff\xffabc",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc",
            b"cmodule\nname",
            b"N\x93.",
            b"\x97.",
            b"(N0N1.",
        ] {
            assert!(run_on(program).0.is_err(), "{program:?}");
        }
    }
}

//! Python pickles, read without running anything: a pickle becomes a graph of plain values in which calls are data, for
//! the caller to interpret. What may be called is the caller's to say; anything else is refused when it is named.
//!
//! The opcodes are those of CPython's `Lib/pickletools.py`, as far as protocols 2 to 5 use them for plain data. Time and
//! memory are linear in the length of the input, whatever the bytes are. (candle's own
//! reader asks for as much memory as a value claims to take.)

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// The place of a value in its [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(usize);

/// A class or function by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Global<'a> {
    pub module: &'a str,
    pub name: &'a str,
}

impl fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are the file's: nothing of them may act on a terminal or fill it.
        for c in self.module.chars().chain(['.']).chain(self.name.chars()).take(120) {
            write!(f, "{}", c.escape_debug())?;
        }
        Ok(())
    }
}

/// A value. Containers hold the places of their items: two may share an item, or hold each other.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes: little-endian, two's complement.
    Long(&'a [u8]),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A `collections.OrderedDict`: the list of pairs that Python 2 makes one from, and what was set afterwards.
    OrderedDict {
        from: Option<Id>,
        items: Vec<(Id, Id)>,
    },
    Global(Global<'a>),
    /// A call that was not made. `args` is a tuple; `state` what the returned object was to be filled from.
    Call {
        callable: Global<'a>,
        args: Id,
        state: Option<Id>,
    },
    /// What the program that wrote the pickle stored elsewhere, under this identifier.
    Persistent(Id),
}

impl Value<'_> {
    /// What it is, for messages.
    pub fn kind(&self) -> String {
        let kind = match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) | Value::Long(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Set(_) => "a set",
            Value::Dict(_) => "a dict",
            Value::OrderedDict { .. } => "an OrderedDict",
            Value::Global(global) => return format!("`{global}`"),
            Value::Call { callable, .. } => return format!("what `{callable}` returns"),
            Value::Persistent(_) => "a persistent identifier",
        };
        kind.to_owned()
    }
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// The place of the value that was pickled.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The value at a place.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0]
    }

    /// All values, in the order in which they were made.
    pub fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// The items of a tuple or list; of anything else, none.
    pub fn sequence(&self, id: Id) -> &[Id] {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => items,
            _ => &[],
        }
    }

    /// The keys and values of a dict in the order in which they were set, where it is one. A key may come twice: the
    /// last one counts.
    pub fn pairs(&self, id: Id) -> Option<impl Iterator<Item = (Id, Id)>> {
        let (from, items) = match self.get(id) {
            Value::Dict(items) => (None, items),
            Value::OrderedDict { from, items } => (*from, items),
            _ => return None,
        };
        let from = from.map_or(&[][..], |list| self.sequence(list)).iter();
        let from = from.filter_map(|pair| match self.sequence(*pair) {
            [key, value] => Some((*key, *value)),
            _ => None,
        });
        Some(from.chain(items.iter().copied()))
    }
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vocabulary {
    /// At all.
    pub allows: fn(Global<'_>) -> bool,
    /// Where what it returns is filled from a state.
    pub fills: fn(Global<'_>) -> bool,
}

/// Reads the pickle that begins at byte `start` of `bytes`, and says where it ends. `path` is for messages.
///
/// [`Error::RefusedPickle`] at the first name that is not allowed, [`Error::Format`] for everything else that is not
/// plain data.
pub(super) fn read<'a>(
    path: &Path,
    bytes: &'a [u8],
    start: usize,
    vocabulary: Vocabulary,
) -> Result<(Pickle<'a>, usize)> {
    let mut machine = Machine {
        path,
        bytes,
        vocabulary,
        opcode_at: start,
        at: start,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = loop {
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    Ok((Pickle { values: machine.values, root }, machine.at))
}

/// The pickle machine, between two opcodes.
struct Machine<'a, 'p> {
    path: &'p Path,
    bytes: &'a [u8],
    vocabulary: Vocabulary,
    opcode_at: usize,
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The heights of the stack at which a MARK was set.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a, '_> {
    /// Does one opcode; STOP returns the value on top.
    fn step(&mut self) -> Result<Option<Id>> {
        self.opcode_at = self.at;
        let [opcode] = self.array()?;
        match opcode {
            op::PROTO => match self.array()? {
                [0..=5] => {}
                [protocol] => return Err(self.damaged(format!("protocol {protocol} is not known"))),
            },
            op::FRAME => {
                self.array::<8>()?;
            }
            op::STOP => return self.pop().map(Some),

            op::MARK => self.marks.push(self.stack.len()),
            op::POP if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
            }
            op::POP => {
                self.pop()?;
            }
            op::POP_MARK => {
                self.pop_mark()?;
            }
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }

            op::NONE => self.push(Value::None),
            op::NEWTRUE => self.push(Value::Bool(true)),
            op::NEWFALSE => self.push(Value::Bool(false)),
            op::INT => {
                let value = match self.line()? {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    digits => Value::Int(
                        digits.parse().map_err(|_| self.damaged("an integer that is not a number"))?,
                    ),
                };
                self.push(value);
            }
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            op::BININT1 => {
                let [value] = self.array()?;
                self.push(Value::Int(value.into()));
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            op::LONG1 => {
                let bytes = self.counted::<1>()?;
                self.push(integer(bytes));
            }
            op::LONG4 => {
                let bytes = self.counted::<4>()?;
                self.push(integer(bytes));
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }

            op::SHORT_BINUNICODE => self.text::<1>()?,
            op::BINUNICODE => self.text::<4>()?,
            op::BINUNICODE8 => self.text::<8>()?,
            op::SHORT_BINSTRING => self.byte_string::<1>()?,
            op::BINSTRING => self.byte_string::<4>()?,
            op::SHORT_BINBYTES => {
                let bytes = self.counted::<1>()?;
                self.push(Value::Bytes(bytes));
            }
            op::BINBYTES => {
                let bytes = self.counted::<4>()?;
                self.push(Value::Bytes(bytes));
            }
            op::BINBYTES8 | op::BYTEARRAY8 => {
                let bytes = self.counted::<8>()?;
                self.push(Value::Bytes(bytes));
            }

            op::EMPTY_TUPLE => self.push(Value::Tuple(Vec::new())),
            op::EMPTY_LIST => self.push(Value::List(Vec::new())),
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            op::EMPTY_SET => self.push(Value::Set(Vec::new())),
            op::TUPLE1 => self.tuple_of(1)?,
            op::TUPLE2 => self.tuple_of(2)?,
            op::TUPLE3 => self.tuple_of(3)?,
            op::TUPLE => {
                let items = self.pop_mark()?;
                self.push(Value::Tuple(items));
            }
            op::LIST => {
                let items = self.pop_mark()?;
                self.push(Value::List(items));
            }
            op::FROZENSET => {
                let items = self.pop_mark()?;
                self.push(Value::Set(items));
            }
            op::DICT => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.add_items("APPEND", &[item])?;
            }
            op::APPENDS => {
                let items = self.pop_mark()?;
                self.add_items("APPENDS", &items)?;
            }
            op::ADDITEMS => {
                let items = self.pop_mark()?;
                self.add_items("ADDITEMS", &items)?;
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }

            op::BINPUT => {
                let [place] = self.array()?;
                self.remember(place.into())?;
            }
            op::LONG_BINPUT => {
                let place = u32::from_le_bytes(self.array()?);
                self.remember(place as usize)?;
            }
            op::MEMOIZE => self.remember(self.memo.len())?,
            op::BINGET => {
                let [place] = self.array()?;
                self.recall(place.into())?;
            }
            op::LONG_BINGET => {
                let place = u32::from_le_bytes(self.array()?);
                self.recall(place as usize)?;
            }

            op::GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(Global { module, name })?;
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Str(module), Value::Str(name)) = (&self.values[module.0], &self.values[name.0])
                else {
                    return Err(self.damaged("a name that is not a string"));
                };
                let global = Global { module, name };
                self.name(global)?;
            }
            op::REDUCE => self.call()?,
            op::BUILD => {
                let filled_from = self.pop()?;
                let top = self.top()?;
                match &mut self.values[top.0] {
                    // torch puts `_metadata` there, version numbers of modules: nothing that a tensor needs.
                    Value::OrderedDict { .. } => {}
                    Value::Call { callable, state, .. } if (self.vocabulary.fills)(*callable) => {
                        *state = Some(filled_from);
                    }
                    other => {
                        let kind = other.kind();
                        return Err(self.damaged(format!("a state (BUILD) for {kind}")));
                    }
                }
            }
            op::BINPERSID => {
                let identifier = self.pop()?;
                self.push(Value::Persistent(identifier));
            }
            other => {
                return Err(self.damaged(match op::unsupported(other) {
                    Some(name) => format!("opcode {name}, which plain data do not need"),
                    None => format!("byte {other:#04x}, which is not an opcode"),
                }));
            }
        }
        Ok(None)
    }

    fn damaged(&self, message: impl fmt::Display) -> Error {
        let message = format!("{message}, at byte {}", self.opcode_at);
        Error::Format { path: self.path.to_owned(), message }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let Some((bytes, _)) = self.bytes[self.at..].split_at_checked(n) else {
            return Err(self.damaged("the file is cut short"));
        };
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("N bytes were taken"))
    }

    /// As many bytes as the little-endian number of `N` bytes before them says.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8]> {
        let mut count = [0; 8];
        count[..N].copy_from_slice(&self.array::<N>()?);
        // A count beyond the address space is beyond the file too.
        self.take(usize::try_from(u64::from_le_bytes(count)).unwrap_or(usize::MAX))
    }

    /// The text up to the next line feed, which is passed over.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(self.damaged("the file is cut short"));
        };
        self.at += length + 1;
        self.utf8(&rest[..length])
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| self.damaged("a string that is not UTF-8"))
    }

    fn text<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.counted::<N>()?;
        let text = self.utf8(bytes)?;
        self.push(Value::Str(text));
        Ok(())
    }

    /// A `str` of Python 2: text where it can be.
    fn byte_string<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.counted::<N>()?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str));
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(Id(self.values.len()));
        self.values.push(value);
    }

    /// The number of values on the stack above the last mark.
    fn height(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(id) if self.height() > 0 => Ok(*id),
            _ => Err(self.damaged("a value is missing on the stack")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => Err(self.damaged("a mark is missing on the stack")),
        }
    }

    fn tuple_of(&mut self, n: usize) -> Result<()> {
        if self.height() < n {
            return Err(self.damaged("a value is missing on the stack"));
        }
        let items = self.stack.split_off(self.stack.len() - n);
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn add_items(&mut self, opcode: &str, items: &[Id]) -> Result<()> {
        let top = self.top()?;
        match &mut self.values[top.0] {
            Value::List(list) if opcode != "ADDITEMS" => list.extend_from_slice(items),
            Value::Set(set) if opcode == "ADDITEMS" => set.extend_from_slice(items),
            other => {
                let kind = other.kind();
                return Err(self.damaged(format!("{opcode} on {kind}")));
            }
        }
        Ok(())
    }

    fn set_items(&mut self, keys_values: &[Id]) -> Result<()> {
        let top = self.top()?;
        let (pairs, rest) = keys_values.as_chunks::<2>();
        match &mut self.values[top.0] {
            Value::Dict(items) | Value::OrderedDict { items, .. } if rest.is_empty() => {
                items.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            other => {
                let kind = other.kind();
                Err(self.damaged(format!("{} keys and values to be set in {kind}", keys_values.len())))
            }
        }
    }

    fn remember(&mut self, place: usize) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Result<()> {
        match self.memo.get(&place) {
            Some(id) => self.stack.push(*id),
            None => return Err(self.damaged(format!("nothing was remembered as {place}"))),
        }
        Ok(())
    }

    fn name(&mut self, global: Global<'a>) -> Result<()> {
        if !(self.vocabulary.allows)(global) {
            return Err(Error::RefusedPickle { path: self.path.to_owned(), callable: global.to_string() });
        }
        self.push(Value::Global(global));
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let (Value::Global(callable), Value::Tuple(items)) = (&self.values[callable.0], &self.values[args.0])
        else {
            return Err(self.damaged("a call of something that is not a name, or without a tuple"));
        };
        let value = match (callable, items.as_slice()) {
            (Global { module: "collections", name: "OrderedDict" }, items @ ([] | [_])) => {
                // The list stays where it is: a copy here would let a short file ask for many long ones.
                Value::OrderedDict { from: items.first().copied(), items: Vec::new() }
            }
            (callable, _) => Value::Call { callable: *callable, args, state: None },
        };
        self.push(value);
        Ok(())
    }
}

/// A little-endian two's complement number of any length.
fn integer(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut extended = [sign; 8];
    extended[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(extended))
}

/// The opcodes, by their names in `pickletools.py`.
mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const INT: u8 = b'I';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const BINFLOAT: u8 = b'G';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BINSTRING: u8 = b'T';
    pub const SHORT_BINSTRING: u8 = b'U';
    pub const BINUNICODE: u8 = b'X';
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const EMPTY_LIST: u8 = b']';
    pub const APPEND: u8 = b'a';
    pub const APPENDS: u8 = b'e';
    pub const LIST: u8 = b'l';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const EMPTY_DICT: u8 = b'}';
    pub const DICT: u8 = b'd';
    pub const SETITEM: u8 = b's';
    pub const SETITEMS: u8 = b'u';
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE: u8 = b't';
    pub const PROTO: u8 = 0x80;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
    pub const BYTEARRAY8: u8 = 0x96;

    /// The name of an opcode that exists but is not read.
    pub fn unsupported(opcode: u8) -> Option<&'static str> {
        Some(match opcode {
            b'F' => "FLOAT",
            b'L' => "LONG",
            b'P' => "PERSID",
            b'S' => "STRING",
            b'V' => "UNICODE",
            b'g' => "GET",
            b'i' => "INST",
            b'o' => "OBJ",
            b'p' => "PUT",
            0x81 => "NEWOBJ",
            0x82 => "EXT1",
            0x83 => "EXT2",
            0x84 => "EXT4",
            0x92 => "NEWOBJ_EX",
            0x97 => "NEXT_BUFFER",
            0x98 => "READONLY_BUFFER",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Vocabulary = Vocabulary {
        allows: |global| global.module == "collections" && matches!(global.name, "OrderedDict" | "filled"),
        fills: |global| global.name == "filled",
    };

    fn load(bytes: &[u8]) -> Result<(Pickle<'_>, usize)> {
        read(Path::new("a.pkl"), bytes, 0, PLAIN)
    }

    fn root(bytes: &[u8]) -> Value<'_> {
        let (mut pickle, _) = load(bytes).unwrap();
        pickle.values.swap_remove(pickle.root.0)
    }

    #[track_caller]
    fn refused(bytes: &[u8], says: &str) {
        let message = load(bytes).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn numbers_and_strings_of_all_widths() {
        // As `pickletools.dis` reads them.
        let cases: [(&[u8], Value<'_>); 21] = [
            (b"K\xff.", Value::Int(255)),
            (b"M\x01\x02.", Value::Int(513)),
            (b"J\xfe\xff\xff\xff.", Value::Int(-2)),
            (b"I-12\n.", Value::Int(-12)),
            (b"I01\n.", Value::Bool(true)),
            (b"\x8a\x00.", Value::Int(0)),
            (b"\x8a\x01\x80.", Value::Int(-128)),
            (b"\x8a\x02\x80\x00.", Value::Int(128)),
            (b"\x8b\x08\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\x7f.", Value::Int(i64::MAX)),
            (
                b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00.",
                Value::Long(b"\xff\xff\xff\xff\xff\xff\xff\xff\x00"),
            ),
            (b"G\xbf\xf8\x00\x00\x00\x00\x00\x00.", Value::Float(-1.5)),
            (b"X\x02\x00\x00\x00\xc3\xa9.", Value::Str("é")),
            (b"\x8c\x02ab.", Value::Str("ab")),
            (b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a.", Value::Str("a")),
            (b"U\x01a.", Value::Str("a")),
            (b"T\x01\x00\x00\x00\xff.", Value::Bytes(b"\xff")),
            (b"C\x01a.", Value::Bytes(b"a")),
            (b"B\x01\x00\x00\x00a.", Value::Bytes(b"a")),
            (b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00a.", Value::Bytes(b"a")),
            (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", Value::Bytes(b"a")),
            (b"(NNt0N.", Value::None),
        ];
        for (bytes, value) in cases {
            assert_eq!(root(bytes), value, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn containers_are_shared_even_before_they_are_filled() {
        // a = []; a.append(a)
        let (pickle, end) = load(b"]q\x05h\x05a.rest").unwrap();
        assert_eq!((pickle.get(pickle.root()), end), (&Value::List(vec![pickle.root()]), 7));
        // a = []; pair = (a, a); a.append(True)
        let (pickle, _) = load(b"]q\x00h\x00\x86q\x01h\x00\x88a0.").unwrap();
        let [left, right] = pickle.sequence(pickle.root()) else { panic!("not a pair") };
        assert_eq!(left, right);
        let [item] = pickle.sequence(*left) else { panic!("not filled") };
        assert_eq!(pickle.get(*item), &Value::Bool(true));
    }

    #[test]
    fn dicts_keep_the_order_in_which_they_were_filled() {
        for bytes in [
            &b"}K\x01N\x73(K\x02NK\x03Nu."[..],
            b"(K\x01NK\x02NK\x03Nd.",
            // As Python 2 pickles an OrderedDict: made from a list of lists.
            b"ccollections\nOrderedDict\n(](]K\x01aNa]K\x02aNaetRK\x03Ns.".as_slice(),
            b"ccollections\nOrderedDict\n(](](K\x01Ne](K\x02NeetRK\x03Ns}b.",
        ] {
            let (pickle, _) = match load(bytes) {
                Ok(loaded) => loaded,
                Err(error) => panic!("{error}: {}", bytes.escape_ascii()),
            };
            let keys: Vec<_> = pickle
                .pairs(pickle.root())
                .unwrap()
                .map(|(key, value)| (pickle.get(key), pickle.get(value)))
                .collect();
            let expected = [1, 2, 3].map(Value::Int);
            assert_eq!(keys, expected.iter().map(|key| (key, &Value::None)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn objects_keep_the_state_they_are_to_be_filled_from() {
        let (pickle, _) = load(b"ccollections\nfilled\n)RK\x07b.").unwrap();
        let Value::Call { state: Some(state), .. } = pickle.get(pickle.root()) else { panic!("no state") };
        assert_eq!(pickle.get(*state), &Value::Int(7));
    }

    #[test]
    fn names_are_refused_when_named_and_not_when_called() {
        for bytes in [&b"cos\nsystem\n0N."[..], b"\x8c\x02os\x8c\x06system\x93"] {
            let Err(Error::RefusedPickle { callable, path }) = load(bytes) else { panic!("not refused") };
            assert_eq!((callable.as_str(), path), ("os.system", "a.pkl".into()));
        }
        // Nothing that a file says reaches the terminal as it is.
        refused(b"\x8c\x02\x1b[\x8c\x01\n\x93", r"`\u{1b}[.\n`");
        refused(b"c\n\n.", "`.`");
    }

    #[test]
    fn whatever_is_not_plain_data_is_named() {
        for (opcode, name) in
            [(b'i', "INST"), (b'o', "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT1"), (b'P', "PERSID")]
        {
            refused(&[0x80, 2, opcode], &format!("opcode {name},"));
        }
        refused(b"\xff", "byte 0xff, which is not an opcode, at byte 0");
        refused(b"\x80\x06", "protocol 6");
        refused(b"}}b.", "a state (BUILD) for a dict");
        refused(b"NNR", "not a name");
        refused(b"ccollections\nOrderedDict\nNR", "without a tuple");
        refused(b"N(0s", "missing on the stack");
        refused(b"Nt", "a mark is missing");
        refused(b"}(Nu", "1 keys and values");
        refused(b"NNa", "APPEND on None");
        refused(b"h\x07", "nothing was remembered as 7");
        refused(b"X\x01\x00\x00\x00\xff", "not UTF-8");
        for bytes in [&b""[..], b"N", b"X\x02\x00\x00\x00a", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", b"cos"]
        {
            refused(bytes, "cut short");
        }
    }

    proptest! {
        #[test]
        fn memory_is_linear_in_the_input(
            // Mostly opcodes and small numbers, so that many get far.
            bytes in prop::collection::vec(prop_oneof![
                4 => prop::sample::select(&b"(012NKMJU)]}tlad\x85\x86\x87\x88\x8f\x90\x91\x94eusqhRQb"[..]),
                2 => 0_u8..4,
                1 => any::<u8>(),
            ], 0..400),
        ) {
            let mut bytes = bytes;
            bytes.splice(0..0, *b"ccollections\nOrderedDict\n");
            bytes.push(op::STOP);
            if let Ok((pickle, end)) = load(&bytes) {
                let held: usize = pickle.values.iter().map(|value| match value {
                    Value::Tuple(items) | Value::List(items) | Value::Set(items) => items.len(),
                    Value::Dict(items) | Value::OrderedDict { items, .. } => 2 * items.len(),
                    _ => 0,
                }).sum();
                prop_assert!(end <= bytes.len());
                prop_assert!(pickle.values.len() <= end && held <= end, "{held} held");
            }
        }
    }
}

//! Reading and writing fixed layouts, big-endian. Also used by obol-toll for its durable facts.

use crate::units::{Step, Stroops, UnitError};

/// Why a body is not a message. Named by the field, because the reaction is always the same: close the circuit or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ends before its layout does.
    #[error("the message is shorter than its layout")]
    TooShort,
    /// The body goes on after its layout.
    #[error("the message is longer than its layout")]
    TooLong,
    /// The version byte is not [`crate::VERSION`].
    #[error("unknown version {0}")]
    Version(u8),
    /// No message has this kind byte.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A number is not one that its unit allows.
    #[error("impossible value: {0}")]
    Unit(#[from] UnitError),
    /// A flag or code that is not defined, or not allowed here.
    #[error("undefined {field}: {value}")]
    Undefined {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
}

/// Takes fields off the front of a body.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Reader { rest: body }
    }

    /// The bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::TooShort)?;
        self.rest = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// An amount: eight bytes, at most 2^63 - 1.
    pub fn stroops(&mut self) -> Result<Stroops, DecodeError> {
        Ok(Stroops::try_from(self.u64()?)?)
    }

    /// A step: one byte, the power of two of 64 KiB.
    pub fn step(&mut self) -> Result<Step, DecodeError> {
        Ok(Step::from_power(self.u8()?)?)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Undefined {
                field,
                value: other.into(),
            }),
        }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TooLong)
        }
    }
}

/// Appends fields to a body.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty body.
    pub fn new() -> Self {
        Writer::default()
    }

    /// A body that begins with the version and `kind`.
    pub fn message(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[crate::VERSION, kind]);
        Writer { bytes }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// An amount, eight bytes.
    pub fn stroops(&mut self, v: Stroops) -> &mut Self {
        self.u64(v.get_u64())
    }

    /// A step, one byte.
    pub fn step(&mut self, v: Step) -> &mut Self {
        self.u8(v.power())
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, v: bool) -> &mut Self {
        self.u8(v.into())
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads the two leading bytes of a message and returns its kind.
pub(crate) fn kind(r: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match r.u8()? {
        crate::VERSION => r.u8(),
        other => Err(DecodeError::Version(other)),
    }
}

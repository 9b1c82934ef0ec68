//! The fields of a protobuf message, one after the other, from a stream.
//!
//! A field that lies whole in the buffer is not copied. Every length is
//! bounded before memory is taken for it.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use super::read::ReadError;

/// Bytes of a whole profile, unpacked.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of one field: a stack of a million frames fits.
const MAX_FIELD: u64 = 8 << 20;
/// Bytes that are unpacked at once.
const CHUNK: usize = 64 << 10;
/// Bytes of the longest number.
const VARINT: usize = 10;

/// One field of the outermost message.
pub(super) enum Field<'a> {
    Number(u32, u64),
    Bytes(u32, &'a [u8]),
}

/// The fields of the outermost message.
pub(super) struct Fields<'a> {
    input: Box<dyn Read + 'a>,
    is_at_end: bool,
    left: u64,
    /// What was read and not yet taken is from `at` to `to`.
    buffer: Vec<u8>,
    at: usize,
    to: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let input: Box<dyn Read> = if bytes.starts_with(&[0x1f, 0x8b]) {
            Box::new(MultiGzDecoder::new(bytes))
        } else {
            Box::new(bytes)
        };
        let buffer = vec![0; CHUNK];
        Self { input, is_at_end: false, left: MAX_BYTES, buffer, at: 0, to: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<Field<'_>>, ReadError> {
        loop {
            self.fill(1)?;
            if self.at == self.to {
                return Ok(None);
            }
            let key = self.varint()?;
            let tag = u32::try_from(key >> 3)
                .ok()
                .filter(|tag| *tag > 0)
                .ok_or(ReadError::Damaged("a bad field number"))?;
            match key & 7 {
                0 => return Ok(Some(Field::Number(tag, self.varint()?))),
                1 => self.bytes(8).map(|_| ())?,
                5 => self.bytes(4).map(|_| ())?,
                2 => {
                    let length = self.varint()?;
                    let range = self.bytes(length)?;
                    return Ok(Some(Field::Bytes(tag, &self.buffer[range])));
                }
                _ => return Err(ReadError::Damaged("a bad wire type")),
            }
        }
    }

    fn varint(&mut self) -> Result<u64, ReadError> {
        self.fill(VARINT)?;
        let mut rest = &self.buffer[self.at..self.to];
        let before = rest.len();
        let number = varint(&mut rest)?;
        let taken = before - rest.len();
        self.at += taken;
        self.take(taken as u64)?;
        Ok(number)
    }

    /// Takes so many bytes: where they lie in the buffer.
    fn bytes(
        &mut self,
        length: u64,
    ) -> Result<std::ops::Range<usize>, ReadError> {
        if length > MAX_FIELD {
            let what = "one field";
            return Err(ReadError::TooBig { what, most: MAX_FIELD });
        }
        self.take(length)?;
        let length = length as usize;
        self.fill(length)?;
        if self.to - self.at < length {
            return Err(ReadError::Damaged("it ends within a field"));
        }
        let start = self.at;
        self.at += length;
        Ok(start..self.at)
    }

    /// Reads on until so many bytes are there, or the end.
    fn fill(&mut self, length: usize) -> Result<(), ReadError> {
        if self.to - self.at >= length || self.is_at_end {
            return Ok(());
        }
        self.buffer.copy_within(self.at..self.to, 0);
        (self.at, self.to) = (0, self.to - self.at);
        while self.to < length {
            // As much as came before at most, not what a length claims.
            let room = self.buffer.len();
            if self.to == room {
                self.buffer.resize(room * 2, 0);
            }
            match self.input.read(&mut self.buffer[self.to..]) {
                Ok(0) => {
                    self.is_at_end = true;
                    return Ok(());
                }
                Ok(more) => self.to += more,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Unpack(error)),
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<(), ReadError> {
        let what = "unpacked content";
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or(ReadError::TooBig { what, most: MAX_BYTES })?;
        Ok(())
    }
}

/// Takes a number from the front.
pub(super) fn varint(bytes: &mut &[u8]) -> Result<u64, ReadError> {
    let mut number = 0_u64;
    for (n, byte) in bytes.iter().take(VARINT).enumerate() {
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(7 * n as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            *bytes = &bytes[n + 1..];
            return Ok(number);
        }
    }
    Err(ReadError::Damaged(match bytes.len() < VARINT {
        true => "it ends within a number",
        false => "a number without an end",
    }))
}

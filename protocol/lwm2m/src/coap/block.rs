//! The value of Block1 and Block2 (RFC 7959 section 2.2, with the BERT size of RFC 8323 section 6).

use super::{OptionNumber, Options};

/// How long a block is, as its size exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u8);

impl BlockSize {
    /// 16 bytes.
    pub const MIN: Self = Self(0);
    /// 1024 bytes.
    pub const MAX: Self = Self(6);
    /// Any multiple of 1024 bytes in one message; only over reliable transports.
    pub const BERT: Self = Self(7);

    /// A size exponent from 0 to 7.
    pub const fn new(exponent: u8) -> Option<Self> {
        if exponent <= 7 { Some(Self(exponent)) } else { None }
    }

    /// The size exponent.
    pub const fn exponent(self) -> u8 {
        self.0
    }

    /// The bytes that one block number stands for: 16 to 1024, and 1024 for BERT.
    pub const fn unit(self) -> usize {
        if self.0 >= 6 { 1024 } else { 16 << self.0 }
    }
}

/// Which part of a body a message carries or asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The number of the first unit in it.
    pub num: u32,
    /// Whether more follows.
    pub more: bool,
    /// The size of the units.
    pub size: BlockSize,
}

impl Block {
    /// Block numbers have 20 bits.
    pub const MAX_NUM: u32 = (1 << 20) - 1;

    /// Reads the option's unsigned integer.
    pub const fn from_uint(value: u32) -> Option<Self> {
        if value >> 24 != 0 {
            return None;
        }
        Some(Self { num: value >> 4, more: value & 8 != 0, size: BlockSize((value & 7) as u8) })
    }

    /// The option's unsigned integer.
    pub const fn to_uint(self) -> u32 {
        ((self.num & Self::MAX_NUM) << 4) | if self.more { 8 } else { 0 } | self.size.0 as u32
    }

    /// The block option of a message, if it has a valid one.
    pub fn of(options: &Options, number: OptionNumber) -> Option<Self> {
        Self::from_uint(options.uint(number)?)
    }

    /// Where in the body it starts, in bytes.
    pub fn offset(self) -> usize {
        usize::try_from(self.num).unwrap_or(usize::MAX).saturating_mul(self.size.unit())
    }

    /// Whether a payload of this many bytes is right for it: whole units if more follows, and no more than one outside of BERT.
    pub fn fits(self, len: usize) -> bool {
        let unit = self.size.unit();
        let bert = self.size == BlockSize::BERT;
        if self.more { len > 0 && len.is_multiple_of(unit) && (bert || len == unit) } else { bert || len <= unit }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_of_the_standard_mean_these_blocks() {
        // RFC 7959 section 3: 2:0/1/128 and 1:3/0/128 stand for these integers.
        let block = |num, more, exponent| Block { num, more, size: BlockSize::new(exponent).unwrap() };
        assert_eq!(Block::from_uint(0x0b), Some(block(0, true, 3)));
        assert_eq!(Block::from_uint(0x33), Some(block(3, false, 3)));
        assert_eq!(Block::from_uint(0x0100_0000), None);
        assert_eq!(block(3, false, 3).offset(), 384);
    }

    #[test]
    fn only_bert_carries_several_units() {
        let more = |exponent| Block { num: 0, more: true, size: BlockSize::new(exponent).unwrap() };
        assert!(more(6).fits(1024) && !more(6).fits(2048) && !more(6).fits(1000) && !more(6).fits(0));
        assert!(more(7).fits(1024) && more(7).fits(4096) && !more(7).fits(1500));
        assert!(Block { num: 1, more: false, size: BlockSize::BERT }.fits(5000));
    }

    proptest! {
        #[test]
        fn a_block_reads_back_as_written(value in 0_u32..1 << 24) {
            prop_assert_eq!(Block::from_uint(value).unwrap().to_uint(), value);
        }

        #[test]
        fn any_value_is_read_or_refused(value: u32) {
            prop_assert_eq!(Block::from_uint(value).is_some(), value < 1 << 24);
        }
    }
}

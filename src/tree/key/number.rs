//! Numbers of all types as one order-preserving form of their exact value.
//!
//! A finite number is a sign, a decimal exponent and decimal digits, two to a byte. A double has up
//! to 767 significant digits and a decimal128 at most 34; yet 34 and a mark "and more" are
//! enough: two doubles differ within their first 17 digits, so no two share 34, and no decimal128
//! lies strictly between a number cut to 34 digits and the number itself. So the form stays exact
//! and injective, and bounded.

const NAN: u8 = 1;
const NEGATIVE_INFINITY: u8 = 2;
const NEGATIVE: u8 = 3;
const ZERO: u8 = 4;
const POSITIVE: u8 = 5;
const INFINITY: u8 = 6;

/// Digits kept: those of a decimal128.
const MAX_DIGITS: usize = 34;
/// Added to an exponent so that it is positive: above the 6176 of the smallest decimal128.
const EXPONENT_BIAS: i32 = 1 << 14;
/// Added to a pair of digits: above both ends.
const PAIR_BASE: u8 = 2;
/// Ends digits that are all there are.
const EXACT_END: u8 = 0;
/// Ends [`MAX_DIGITS`] digits that others, not all zero, follow.
const MORE_END: u8 = 1;

/// Largest magnitude of a double that this encodes by way of an integer (2^53).
const INTEGRAL_DOUBLE_LIMIT: f64 = 9_007_199_254_740_992.0;
/// Digits after the point that hold any double exactly (767 significant).
const EXACT_DOUBLE_FRACTION_DIGITS: usize = 766;

/// Appends an integer.
pub(super) fn encode_integer(value: i64, out: &mut Vec<u8>) {
    encode_scaled(value < 0, u128::from(value.unsigned_abs()), 0, false, out);
}

/// Appends a double.
pub(super) fn encode_double(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.push(NAN);
    }
    if value.is_infinite() {
        return out.push(if value < 0.0 { NEGATIVE_INFINITY } else { INFINITY });
    }
    if value.abs() <= INTEGRAL_DOUBLE_LIMIT && value.fract() == 0.0 {
        #[allow(clippy::cast_possible_truncation)] // integral and within 2^53
        return encode_integer(value as i64, out);
    }
    let (digits, exponent, more) = double_digits(value.abs());
    encode_scaled(value < 0.0, digits, exponent, more, out);
}

/// The first [`MAX_DIGITS`] digits of a positive double as an integer, the power of ten of the last
/// of them, and whether others that are not all zero follow. The standard library prints exactly.
fn double_digits(value: f64) -> (u128, i32, bool) {
    let text = format!("{value:.EXACT_DOUBLE_FRACTION_DIGITS$e}");
    let (mut digits, mut taken, mut exponent, mut more) = (0_u128, 0, 0_i32, false);
    let mut bytes = text.bytes();
    for byte in bytes.by_ref().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit) {
        if taken < MAX_DIGITS {
            digits = digits * 10 + u128::from(byte - b'0');
            taken += 1;
        } else {
            more |= byte != b'0';
        }
    }
    let mut negative = false;
    for byte in bytes {
        match byte {
            b'-' => negative = true,
            digit => exponent = exponent * 10 + i32::from(digit - b'0'),
        }
    }
    let exponent = if negative { -exponent } else { exponent };
    (digits, exponent - (MAX_DIGITS as i32 - 1), more)
}

/// Appends a decimal128 from its 128 bits (binary integer significand form).
pub(super) fn encode_decimal(bits: u128, out: &mut Vec<u8>) {
    let negative = bits >> 127 == 1;
    let combination = (bits >> 122) & 0x1f;
    match combination {
        0x1f => out.push(NAN),
        0x1e => out.push(if negative { NEGATIVE_INFINITY } else { INFINITY }),
        // The large significand form holds only values above the largest significand: zeros.
        0x18..=0x1d => out.push(ZERO),
        _ => {
            let exponent = i32::from(((bits >> 113) & 0x3fff) as u16) - 6176;
            let significand = bits & ((1 << 113) - 1);
            let canonical = if significand < 10_u128.pow(34) { significand } else { 0 };
            encode_scaled(negative, canonical, exponent, false, out);
        }
    }
}

/// Appends `digits` x 10^`exponent`, or what lies just beyond it if there are `more` digits.
fn encode_scaled(negative: bool, digits: u128, exponent: i32, more: bool, out: &mut Vec<u8>) {
    if digits == 0 {
        return out.push(ZERO);
    }
    out.push(if negative { NEGATIVE } else { POSITIVE });
    let start = out.len();
    let count = digits.ilog10() as usize + 1;
    let first = exponent + count as i32 - 1;
    let biased = u16::try_from(first + EXPONENT_BIAS).expect("decimal exponents are within 6176");
    out.extend_from_slice(&biased.to_be_bytes());
    push_pairs(digits, count, more, out);
    out.push(if more { MORE_END } else { EXACT_END });
    if negative {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Appends the digits two to a byte from the first on, without trailing zero pairs if exact.
fn push_pairs(digits: u128, count: usize, more: bool, out: &mut Vec<u8>) {
    let pairs = count.div_ceil(2);
    let start = out.len();
    out.resize(start + pairs, 0);
    let mut rest = if count % 2 == 1 { digits * 10 } else { digits };
    for slot in out[start..].iter_mut().rev() {
        // Division of 128 bits is slow and nearly every number fits 64.
        let pair = if let Ok(small) = u64::try_from(rest) {
            rest = u128::from(small / 100);
            small % 100
        } else {
            let pair = rest % 100;
            rest /= 100;
            pair as u64
        };
        *slot = PAIR_BASE + pair as u8;
    }
    if !more {
        let last = out[start..].iter().rposition(|byte| *byte != PAIR_BASE);
        out.truncate(start + last.map_or(0, |last| last + 1));
    }
}

//! Keys against a comparison of values written from the server's rules, without their encoding.

use std::cmp::Ordering;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, Regex, Timestamp, doc};
use proptest::prelude::*;

use super::*;
use crate::tree::tests::runner;

/// A finite number's exact value: (-1)^negative x digits x 2^twos x 10^tens.
#[derive(Debug, Clone, Copy)]
struct Exact {
    negative: bool,
    digits: u128,
    twos: i32,
    tens: i32,
}

enum Number {
    Nan,
    Infinite(bool),
    Finite(Exact),
}

fn number(value: &Bson) -> Option<Number> {
    let integer = |value: i64| Exact {
        negative: value < 0,
        digits: u128::from(value.unsigned_abs()),
        twos: 0,
        tens: 0,
    };
    Some(match value {
        Bson::Int32(value) => Number::Finite(integer(i64::from(*value))),
        Bson::Int64(value) => Number::Finite(integer(*value)),
        Bson::Double(value) if value.is_nan() => Number::Nan,
        Bson::Double(value) if value.is_infinite() => Number::Infinite(*value < 0.0),
        Bson::Double(value) => {
            let bits = value.to_bits();
            let (exponent, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
            let (digits, twos) = match exponent {
                0 => (fraction, -1074),
                _ => (fraction | 1 << 52, exponent as i32 - 1075),
            };
            let negative = value.is_sign_negative();
            Number::Finite(Exact { negative, digits: u128::from(digits), twos, tens: 0 })
        }
        Bson::Decimal128(value) => match value.to_string().as_str() {
            "NaN" => Number::Nan,
            "Infinity" => Number::Infinite(false),
            "-Infinity" => Number::Infinite(true),
            text => {
                let (digits, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                let all: String = format!("{whole}{fraction}").replace(['-', '+'], "");
                Number::Finite(Exact {
                    negative: text.starts_with('-'),
                    digits: all.parse().unwrap(),
                    twos: 0,
                    tens: exponent.parse::<i32>().unwrap() - fraction.len() as i32,
                })
            }
        },
        _ => return None,
    })
}

/// A natural number in 32-bit digits, lowest first.
fn natural(digits: u128, twos: i32, tens: i32) -> Vec<u32> {
    let mut limbs: Vec<u32> = (0..4).map(|place| (digits >> (32 * place)) as u32).collect();
    let factors =
        std::iter::repeat_n(2, twos as usize).chain(std::iter::repeat_n(10, tens as usize));
    for factor in factors {
        let mut carry = 0_u64;
        for limb in &mut limbs {
            carry += u64::from(*limb) * factor;
            *limb = carry as u32;
            carry >>= 32;
        }
        limbs.push(carry as u32);
    }
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
    limbs
}

fn compare_exact(a: Exact, b: Exact) -> Ordering {
    let sign = |x: Exact| {
        if x.digits == 0 {
            0
        } else if x.negative {
            -1
        } else {
            1
        }
    };
    if sign(a) != sign(b) || sign(a) == 0 {
        return sign(a).cmp(&sign(b));
    }
    let (twos, tens) = (a.twos.min(b.twos), a.tens.min(b.tens));
    let a_natural = natural(a.digits, a.twos - twos, a.tens - tens);
    let b_natural = natural(b.digits, b.twos - twos, b.tens - tens);
    let order = a_natural
        .len()
        .cmp(&b_natural.len())
        .then_with(|| a_natural.iter().rev().cmp(b_natural.iter().rev()));
    if a.negative { order.reverse() } else { order }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    let rank = |number: &Number| match number {
        Number::Nan => 0,
        Number::Infinite(true) => 1,
        Number::Finite(_) => 2,
        Number::Infinite(false) => 3,
    };
    match (a, b) {
        (Number::Finite(a), Number::Finite(b)) => compare_exact(*a, *b),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// The server's canonical type order.
fn rank(value: &Bson) -> i32 {
    match value {
        Bson::MinKey => -1,
        Bson::Undefined => 0,
        Bson::Null => 5,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 10,
        Bson::String(_) | Bson::Symbol(_) => 15,
        Bson::Document(_) => 20,
        Bson::Array(_) => 25,
        Bson::Binary(_) => 30,
        Bson::ObjectId(_) => 35,
        Bson::Boolean(_) => 40,
        Bson::DateTime(_) => 45,
        Bson::Timestamp(_) => 47,
        Bson::RegularExpression(_) => 50,
        Bson::DbPointer(_) => 55,
        Bson::JavaScriptCode(_) => 60,
        Bson::JavaScriptCodeWithScope(_) => 65,
        Bson::MaxKey => 127,
    }
}

fn compare_documents(a: &Document, b: &Document) -> Ordering {
    for ((a_name, a), (b_name, b)) in a.iter().zip(b) {
        let order = rank(a).cmp(&rank(b)).then_with(|| a_name.as_bytes().cmp(b_name.as_bytes()));
        let order = order.then_with(|| compare(a, b));
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn compare(a: &Bson, b: &Bson) -> Ordering {
    if rank(a) != rank(b) {
        return rank(a).cmp(&rank(b));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return compare_numbers(&a, &b);
    }
    let text = |value: &Bson| match value {
        Bson::String(text) | Bson::Symbol(text) | Bson::JavaScriptCode(text) => text.clone(),
        _ => String::new(),
    };
    let binary_len =
        |b: &Binary| b.bytes.len() + if b.subtype == BinarySubtype::BinaryOld { 4 } else { 0 };
    match (a, b) {
        (Bson::Document(a), Bson::Document(b)) => compare_documents(a, b),
        (Bson::Array(a), Bson::Array(b)) => {
            let unlike = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
            unlike.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Bson::Binary(a), Bson::Binary(b)) => binary_len(a)
            .cmp(&binary_len(b))
            .then(u8::from(a.subtype).cmp(&u8::from(b.subtype)))
            .then_with(|| a.bytes.cmp(&b.bytes)),
        (Bson::ObjectId(a), Bson::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.timestamp_millis().cmp(&b.timestamp_millis()),
        (Bson::Timestamp(a), Bson::Timestamp(b)) => {
            (a.time, a.increment).cmp(&(b.time, b.increment))
        }
        (Bson::RegularExpression(a), Bson::RegularExpression(b)) => {
            (a.pattern.as_str(), a.options.as_str()).cmp(&(b.pattern.as_str(), b.options.as_str()))
        }
        (Bson::JavaScriptCodeWithScope(a), Bson::JavaScriptCodeWithScope(b)) => {
            a.code.cmp(&b.code).then_with(|| compare_documents(&a.scope, &b.scope))
        }
        _ => text(a).as_bytes().cmp(text(b).as_bytes()),
    }
}

fn decimal(negative: bool, digits: u128, exponent: i32) -> Bson {
    let bits = u128::from(negative) << 127 | ((exponent + 6176) as u128) << 113 | digits;
    Bson::Decimal128(Decimal128::from_bytes(bits.to_le_bytes()))
}

/// The first 34 digits of a double as a decimal128, give or take a few units in the last place.
fn decimal_near(value: f64, off: i32) -> Bson {
    let text = format!("{:.33e}", value.abs());
    let (digits, exponent) = text.split_once('e').unwrap();
    let digits: i128 = digits.replace('.', "").parse().unwrap();
    let digits = (digits + i128::from(off)).clamp(0, 10_i128.pow(34) - 1);
    decimal(value < 0.0, digits as u128, exponent.parse::<i32>().unwrap() - 33)
}

fn any_number() -> BoxedStrategy<Bson> {
    let double = prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits),
        (-1000..1000_i32).prop_map(|n| f64::from(n) / 10.0),
        (any::<i64>()).prop_map(|n| n as f64),
        prop::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324]),
    ];
    let near = (double.clone(), -1..2_i32);
    prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        (-20..20_i32).prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        (-2..3_i64).prop_map(|off| Bson::Int64((1 << 53) + off)),
        double.prop_map(Bson::Double),
        near.prop_filter_map("finite", |(value, off)| {
            value.is_finite().then(|| decimal_near(value, off))
        }),
        (any::<bool>(), 0..10_u128.pow(34), -6176..6112_i32).prop_map(|(n, d, e)| decimal(n, d, e)),
        (any::<bool>(), 0..1000_u128, -4..4_i32).prop_map(|(n, d, e)| decimal(n, d, e)),
        prop::sample::select(vec!["NaN", "-NaN", "Infinity", "-Infinity", "-0E+10"])
            .prop_map(|text| Bson::Decimal128(text.parse().unwrap())),
    ]
    .boxed()
}

fn any_value() -> BoxedStrategy<Bson> {
    let text = || "[ab\0\u{ff}]{0,4}";
    let leaf = prop_oneof![
        6 => any_number(),
        3 => text().prop_map(Bson::String),
        1 => text().prop_map(Bson::Symbol),
        2 => (prop::collection::vec(0..3_u8, 0..7), 0..4_u8).prop_map(|(bytes, subtype)| {
            Bson::Binary(Binary { subtype: subtype.into(), bytes })
        }),
        1 => prop::array::uniform12(0..2_u8).prop_map(|b| Bson::ObjectId(b.into())),
        1 => any::<bool>().prop_map(Bson::Boolean),
        1 => any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        1 => (0..3_u32, any::<u32>())
            .prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        1 => ("[ab]{0,2}", "[im]{0,2}").prop_map(|(pattern, options)| {
            let regex = Regex { pattern: pattern.try_into().unwrap(), options: options.try_into().unwrap() };
            Bson::RegularExpression(regex)
        }),
        1 => text().prop_map(Bson::JavaScriptCode),
        1 => prop::sample::select(vec![Bson::MinKey, Bson::MaxKey, Bson::Null, Bson::Undefined]),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let fields = prop::collection::vec(("[ab]{0,2}", inner.clone()), 0..4);
        let object = fields.prop_map(|fields| fields.into_iter().collect::<Document>());
        prop_oneof![
            object.clone().prop_map(Bson::Document),
            prop::collection::vec(inner, 0..4).prop_map(Bson::Array),
            ("[ab\0]{0,2}", object)
                .prop_map(|(code, scope)| { bson::JavaScriptCodeWithScope { code, scope }.into() }),
        ]
    })
    .boxed()
}

fn key(value: &Bson) -> Key {
    let document = RawDocumentBuf::try_from(&doc! { "_id": value.clone() }).unwrap();
    let key = Key::of_document(&document).unwrap();
    let value_len = document.as_bytes().len() - 10;
    assert!(key.as_bytes().len() <= 3 * value_len + 16, "{value:?}: {}", key.as_bytes().len());
    key
}

#[test]
fn numbers_compare_by_exact_value() {
    runner(6000)
        .run(&(any_number(), any_number()), |(a, b)| {
            prop_assert_eq!(key(&a).cmp(&key(&b)), compare(&a, &b));
            Ok(())
        })
        .unwrap();
}

#[test]
fn doubles_and_decimals_around_them_compare_exactly() {
    let around = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |x| x.is_finite());
    runner(2000)
        .run(&(around, -2..3_i32), |(value, off)| {
            let (a, b) = (Bson::Double(value), decimal_near(value, off));
            prop_assert_eq!(key(&a).cmp(&key(&b)), compare(&a, &b));
            let next = Bson::Double(f64::from_bits(value.to_bits() + 1));
            prop_assert_eq!(key(&a).cmp(&key(&next)), compare(&a, &next));
            Ok(())
        })
        .unwrap();
}

#[test]
fn values_of_all_types_compare_as_the_server_compares_them() {
    runner(4000)
        .run(&prop::collection::vec(any_value(), 2..6), |values| {
            for (a, b) in values.iter().zip(&values[1..]).chain([(&values[0], &values[0])]) {
                prop_assert_eq!(key(a).cmp(&key(b)), compare(a, b), "{:?} {:?}", a, b);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn equal_numbers_of_all_types_are_one_key() {
    let decimals = ["1", "1.0", "1.000E0", "10E-1", "0.1E+1"];
    for decimal in decimals {
        assert_eq!(key(&Bson::Decimal128(decimal.parse().unwrap())), key(&Bson::Int32(1)));
    }
    assert_eq!(key(&Bson::Int64(1)), key(&Bson::Double(1.0)));
    assert_eq!(key(&Bson::Double(-0.0)), key(&Bson::Int32(0)));
    let large = (1_i64 << 53) + 1;
    assert!(key(&Bson::Int64(large)) > key(&Bson::Double(large as f64)));
}

#[test]
fn the_server_s_oddities_are_read() {
    // A string that is not UTF-8, a DBPointer, a second _id that does not count.
    let mut raw = b"\0\0\0\0\x02a\0\x03\0\0\0\xff\xfe\0".to_vec();
    raw.extend_from_slice(b"\x0c_id\0\x02\0\0\0n\x00aaaaaaaaaaaa\x10_id\0\x01\0\0\0\0");
    let len = raw.len() as u32;
    raw[..4].copy_from_slice(&len.to_le_bytes());
    let key = Key::of_document(RawDocument::from_bytes(&raw).unwrap()).unwrap();
    assert_eq!(key.as_bytes(), b"\x0e\0\0\0\x12\x02\0\0\0n\0aaaaaaaaaaaa");
}

#[test]
fn what_is_no_key_is_an_error() {
    let none = RawDocumentBuf::try_from(&doc! { "a": 1 }).unwrap();
    assert!(matches!(Key::of_document(&none), Err(Error::NoId)));
    let mut deep = Bson::Int32(1);
    for _ in 0..=MAX_NESTING {
        deep = Bson::Array(vec![deep]);
    }
    let deep = RawDocumentBuf::try_from(&doc! { "_id": deep }).unwrap();
    assert!(matches!(Key::of_document(&deep), Err(Error::NestedTooDeep)));
}

#[test]
fn damaged_documents_give_errors_and_no_panic() {
    let value = any_value();
    runner(3000)
        .run(&(value, any::<prop::sample::Index>(), any::<u8>()), |(value, place, byte)| {
            let document = RawDocumentBuf::try_from(&doc! { "a": "x", "_id": value }).unwrap();
            let mut raw = document.into_bytes();
            let place = 4 + place.index(raw.len() - 5);
            raw[place] = byte;
            if let Ok(document) = RawDocument::from_bytes(&raw) {
                let _ = Key::of_document(document);
            }
            Ok(())
        })
        .unwrap();
}

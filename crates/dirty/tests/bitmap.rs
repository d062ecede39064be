//! `AtomicBitmap` against a `Vec<bool>`.

#![allow(clippy::cast_possible_truncation, reason = "small numbers; a panic is how a test fails")]

use proptest::prelude::*;
use ringmark_dirty::AtomicBitmap;

#[derive(Clone, Debug)]
enum Op {
    Set(u64),
    SetRange(u64, u64),
    Swap(usize, u64),
    Clear(usize, u64),
    Fill,
}

fn op(bits: u64) -> impl Strategy<Value = Op> {
    let words = bits.div_ceil(64) as usize;
    prop_oneof![
        6 => (0..bits).prop_map(Op::Set),
        3 => (0..=bits, 0..=bits).prop_map(|(a, b)| Op::SetRange(a, b)),
        2 => (0..words, prop_oneof![Just(0), any::<u64>()]).prop_map(|(w, v)| Op::Swap(w, v)),
        2 => (0..words, any::<u64>()).prop_map(|(w, m)| Op::Clear(w, m)),
        1 => Just(Op::Fill),
    ]
}

fn word(model: &[bool], word: usize) -> u64 {
    model.iter().skip(word * 64).take(64).zip(0..).fold(0, |sum, (&bit, n)| sum | u64::from(bit) << n)
}

fn put(model: &mut [bool], word: usize, value: u64) {
    for (bit, n) in model.iter_mut().skip(word * 64).take(64).zip(0..) {
        *bit = value >> n & 1 != 0;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_vec_of_bools_does(
        (bits, ops) in (1u64..300).prop_flat_map(|n| (Just(n), prop::collection::vec(op(n), 1..40)))
    ) {
        let bitmap = AtomicBitmap::new(bits);
        let mut model = vec![false; bits as usize];
        prop_assert_eq!((bitmap.bits(), bitmap.words()), (bits, model.len().div_ceil(64)));
        for op in ops {
            match op {
                Op::Set(bit) => {
                    let was = std::mem::replace(&mut model[bit as usize], true);
                    prop_assert_eq!(bitmap.set(bit), !was);
                }
                Op::SetRange(start, end) => {
                    bitmap.set_range(start..end);
                    for bit in start..end {
                        model[bit as usize] = true;
                    }
                }
                Op::Swap(w, value) => {
                    let was = word(&model, w);
                    put(&mut model, w, value);
                    prop_assert_eq!(bitmap.swap_word(w, value), was);
                }
                Op::Clear(w, mask) => {
                    let was = word(&model, w);
                    put(&mut model, w, was & !mask);
                    prop_assert_eq!(bitmap.clear_bits(w, mask), was & mask);
                }
                Op::Fill => {
                    bitmap.fill();
                    model.fill(true);
                }
            }
            for w in 0..bitmap.words() {
                prop_assert_eq!(bitmap.load_word(w), word(&model, w), "word {}", w);
            }
            for (bit, &set) in (0..).zip(&model) {
                prop_assert_eq!(bitmap.test(bit), set);
            }
            prop_assert_eq!(bitmap.count(), model.iter().filter(|b| **b).count() as u64);
        }
    }
}

#[test]
fn an_empty_bitmap_has_no_words() {
    let bitmap = AtomicBitmap::new(0);
    bitmap.fill();
    assert_eq!((bitmap.words(), bitmap.count()), (0, 0));
}

#[test]
#[should_panic(expected = "bit 65 of a bitmap of 65 bits")]
fn a_bit_past_the_end_is_refused_though_its_word_exists() {
    AtomicBitmap::new(65).set(65);
}

#[test]
#[should_panic(expected = "bits to 66 of a bitmap of 65 bits")]
fn a_range_past_the_end_is_refused() {
    AtomicBitmap::new(65).set_range(64..66);
}

//! Whether one processor can stand in for another.

use crate::platform::Processor;
use crate::platform::processor::Leaf;

/// A register of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// Where features are bits: a bit that is set promises something to the guest. Bits in the last column follow what the guest
/// itself has set (CR4, the APIC's base), or are set for every guest.
const FEATURES: &[(u32, u32, Register, u32)] = &[
    // OSXSAVE, and the bit that says that there is a hypervisor.
    (0x1, 0, Ecx, 1 << 27 | 1 << 31),
    // APIC.
    (0x1, 0, Edx, 1 << 9),
    (0x7, 0, Ebx, 0),
    // OSPKE.
    (0x7, 0, Ecx, 1 << 4),
    (0x7, 0, Edx, 0),
    (0x7, 1, Eax, 0),
    (0x7, 1, Edx, 0),
    // What XSAVE knows.
    (0xd, 0, Eax, 0),
    (0xd, 0, Edx, 0),
    (0xd, 1, Eax, 0),
    (0xd, 1, Ecx, 0),
    (0x4000_0001, 0, Eax, 0),
    (0x8000_0001, 0, Ecx, 0),
    (0x8000_0001, 0, Edx, 0),
    (0x8000_0007, 0, Edx, 0),
    (0x8000_0008, 0, Ebx, 0),
];

/// Names of the features that hosts differ in most often.
const NAMES: &[(u32, u32, Register, u32, &str)] = &[
    (0x1, 0, Ecx, 12, "fma"),
    (0x1, 0, Ecx, 20, "sse4.2"),
    (0x1, 0, Ecx, 25, "aes"),
    (0x1, 0, Ecx, 26, "xsave"),
    (0x1, 0, Ecx, 28, "avx"),
    (0x1, 0, Ecx, 30, "rdrand"),
    (0x7, 0, Ebx, 3, "bmi1"),
    (0x7, 0, Ebx, 5, "avx2"),
    (0x7, 0, Ebx, 8, "bmi2"),
    (0x7, 0, Ebx, 16, "avx512f"),
    (0x7, 0, Ebx, 18, "rdseed"),
    (0x7, 0, Ebx, 29, "sha"),
    (0x7, 0, Ecx, 9, "vaes"),
    (0x7, 0, Ecx, 16, "la57"),
    (0x7, 0, Edx, 24, "amx-tile"),
    (0x7, 0, Edx, 26, "ibrs"),
    (0x8000_0001, 0, Edx, 26, "pages of 1 GiB"),
    (0x8000_0001, 0, Edx, 27, "rdtscp"),
    (0x8000_0007, 0, Edx, 8, "invariant time-stamp counter"),
];

impl Register {
    const fn of(self, leaf: &Leaf) -> u32 {
        match self {
            Eax => leaf.eax,
            Ebx => leaf.ebx,
            Ecx => leaf.ecx,
            Edx => leaf.edx,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Eax => "eax",
            Ebx => "ebx",
            Ecx => "ecx",
            Edx => "edx",
        }
    }
}

fn leaf(processor: &Processor, function: u32, index: u32) -> Leaf {
    let found = processor.leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
    found.copied().unwrap_or_default()
}

/// Who made the processor, in its own words.
fn vendor(processor: &Processor) -> String {
    let Leaf { ebx, ecx, edx, .. } = leaf(processor, 0, 0);
    let bytes: Vec<u8> = [ebx, edx, ecx].into_iter().flat_map(u32::to_le_bytes).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first thing that a guest was promised by `wanted` and that none of `here` has: what the kernel says that it supports,
/// and what a vCPU offers that was given all of it.
pub(super) fn missing(wanted: &Processor, here: &[Processor]) -> Option<String> {
    let makers: Vec<_> = here.iter().map(vendor).collect();
    if !makers.contains(&vendor(wanted)) {
        return Some(format!(
            "its processor is of {}, and this host\'s of {}",
            vendor(wanted),
            makers.join(", ")
        ));
    }
    FEATURES.iter().find_map(|&(function, index, register, guests)| {
        let bits = |processor| register.of(&leaf(processor, function, index)) & !guests;
        let lacking = bits(wanted) & !here.iter().fold(0, |all, processor| all | bits(processor));
        (lacking != 0).then(|| {
            let bit = lacking.trailing_zeros();
            let named = NAMES
                .iter()
                .find(|(f, i, r, b, _)| (*f, *i, *r, *b) == (function, index, register, bit));
            let name = named.map(|(.., name)| format!("{name}, ")).unwrap_or_default();
            format!(
                "its processor has a feature that this host\'s has not: {name}CPUID {function:#x}.{index} {} bit {bit}",
                register.name()
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(extra: &[Leaf]) -> Processor {
        let maker = Leaf { ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e, ..Leaf::default() };
        let base = Leaf { function: 1, ecx: 1 << 28, edx: 1, ..Leaf::default() };
        Processor { leaves: [&[maker, base], extra].concat() }
    }

    #[test]
    fn a_feature_that_is_missing_is_named() {
        let avx512 = Leaf { function: 7, ebx: 1 << 16, ..Leaf::default() };
        let rich = processor(&[avx512]);
        assert_eq!(missing(&processor(&[]), std::slice::from_ref(&rich)), None, "more is no harm");
        let said = missing(&rich, &[processor(&[])]).unwrap();
        assert!(said.contains("avx512f") && said.contains("CPUID 0x7.0 ebx bit 16"), "{said}");
        assert_eq!(missing(&rich, &[processor(&[]), rich.clone()]), None, "either has it");
    }

    #[test]
    fn what_the_guest_has_set_itself_is_no_feature() {
        let mut wanted = processor(&[]);
        wanted.leaves[1].ecx |= 1 << 27 | 1 << 31;
        assert_eq!(missing(&wanted, &[processor(&[])]), None);
    }

    #[test]
    fn processors_of_two_makers_are_not_exchanged() {
        let mut amd = processor(&[]);
        amd.leaves[0] = Leaf { ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163, ..Leaf::default() };
        let said = missing(&amd, &[processor(&[])]).unwrap();
        assert!(said.contains("AuthenticAMD") && said.contains("GenuineIntel"), "{said}");
    }
}

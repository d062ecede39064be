//! In what kernels' ITSs differ.

/// The rules by which kernels of different versions differ in their ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ItsRules {
    /// An unknown control attribute gives `ENXIO`; else it is accepted and does nothing.
    pub unknown_ctrl_refused: bool,
    /// Saving leaves out a device whose table entry is outside guest memory; else it fails with `EINVAL`.
    pub save_skips_unaddressable: bool,
    /// Any change of `GITS_BASERn` unmaps the table's devices or collections; else only clearing its valid bit does.
    pub any_table_change_forgets: bool,
}

impl ItsRules {
    /// Linux 6.12.
    ///
    /// One of its faults is not played: saving an event whose collection was unmapped crashes that kernel. Here it
    /// writes a zero entry, as later kernels do.
    #[must_use]
    pub const fn linux_6_12() -> Self {
        Self { unknown_ctrl_refused: false, save_skips_unaddressable: false, any_table_change_forgets: false }
    }

    /// Linux 7.2.
    #[must_use]
    pub const fn linux_7_2() -> Self {
        Self { unknown_ctrl_refused: true, save_skips_unaddressable: true, any_table_change_forgets: true }
    }
}

impl Default for ItsRules {
    fn default() -> Self {
        Self::linux_7_2()
    }
}

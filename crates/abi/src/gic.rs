//! Numbers of the device interface (`arch/arm64/include/uapi/asm/kvm.h`).

/// Device types of `KVM_CREATE_DEVICE`.
pub mod device_type {
    /// `KVM_DEV_TYPE_ARM_VGIC_V3`.
    pub const ARM_VGIC_V3: u32 = 7;
    /// `KVM_DEV_TYPE_ARM_VGIC_ITS`.
    pub const ARM_VGIC_ITS: u32 = 8;
}

/// Attribute groups.
pub mod group {
    /// `KVM_DEV_ARM_VGIC_GRP_ADDR`: where the frames lie, one of [`addr`](super::addr).
    pub const ADDR: u32 = 0;
    /// `KVM_DEV_ARM_VGIC_GRP_DIST_REGS`: the distributor's registers, 32 bits at a time; the attribute is the register's
    /// offset.
    pub const DIST_REGS: u32 = 1;
    /// `KVM_DEV_ARM_VGIC_GRP_NR_IRQS`: how many interrupts there are below the LPIs, private ones included; 32 bits.
    pub const NR_IRQS: u32 = 3;
    /// `KVM_DEV_ARM_VGIC_GRP_CTRL`: actions, one of [`ctrl`](super::ctrl).
    pub const CTRL: u32 = 4;
    /// `KVM_DEV_ARM_VGIC_GRP_REDIST_REGS`: a redistributor's registers, 32 bits at a time; the attribute is the vCPU's
    /// affinity in the upper half and the register's offset in the lower.
    pub const REDIST_REGS: u32 = 5;
    /// `KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS`: the system registers of a vCPU's CPU interface, 64 bits at a time; the attribute
    /// is the vCPU's affinity in the upper half and the register's encoding in the lower.
    pub const CPU_SYSREGS: u32 = 6;
    /// `KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO`: the levels of 32 interrupt lines; the attribute is a vCPU's affinity in the upper
    /// half and the first INTID in the lower.
    pub const LEVEL_INFO: u32 = 7;
    /// `KVM_DEV_ARM_VGIC_GRP_ITS_REGS`: an ITS's registers, 64 bits at a time; the attribute is the register's offset.
    pub const ITS_REGS: u32 = 8;
}

/// Attributes of [`group::ADDR`].
pub mod addr {
    /// `KVM_VGIC_V3_ADDR_TYPE_DIST`: the distributor's frame of 64 KiB.
    pub const V3_DIST: u64 = 2;
    /// `KVM_VGIC_V3_ADDR_TYPE_REDIST`: the one region of all redistributors, 128 KiB a vCPU.
    pub const V3_REDIST: u64 = 3;
    /// `KVM_VGIC_ITS_ADDR_TYPE`: an ITS's two frames, 128 KiB.
    pub const ITS: u64 = 4;
    /// `KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION`: one of several regions of redistributors; count in bits 63 to 52, base in
    /// 51 to 16, index in 11 to 0.
    pub const V3_REDIST_REGION: u64 = 5;
    /// `VGIC_ADDR_UNDEF`: what reading an address gives that was never set.
    pub const UNDEFINED: u64 = u64::MAX;
}

/// Attributes of [`group::CTRL`].
pub mod ctrl {
    /// `KVM_DEV_ARM_VGIC_CTRL_INIT`: the VGIC is complete; an ITS accepts it and does nothing.
    pub const INIT: u64 = 0;
    /// `KVM_DEV_ARM_ITS_SAVE_TABLES`: what the ITS holds, into guest memory.
    pub const ITS_SAVE_TABLES: u64 = 1;
    /// `KVM_DEV_ARM_ITS_RESTORE_TABLES`: back again; it consumes pending bits and so writes guest memory too.
    pub const ITS_RESTORE_TABLES: u64 = 2;
    /// `KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES`: pending LPIs into the redistributors' pending tables.
    pub const SAVE_PENDING_TABLES: u64 = 3;
    /// `KVM_DEV_ARM_ITS_CTRL_RESET`: the ITS as it was created, but at its address and with its table addresses.
    pub const ITS_RESET: u64 = 4;
}

/// Offsets of an ITS's registers in its frame.
pub mod gits {
    /// `GITS_CTLR`.
    pub const CTLR: u64 = 0x0;
    /// `GITS_IIDR`; bits 15 to 12 are the revision of the table layouts.
    pub const IIDR: u64 = 0x4;
    /// `GITS_TYPER`.
    pub const TYPER: u64 = 0x8;
    /// `GITS_CBASER`: the command queue.
    pub const CBASER: u64 = 0x80;
    /// `GITS_CWRITER`: up to where the queue is filled; a write executes.
    pub const CWRITER: u64 = 0x88;
    /// `GITS_CREADR`: up to where it was executed.
    pub const CREADR: u64 = 0x90;
    /// `GITS_BASER0`: the device table. The collection table is 8 bytes further on.
    pub const BASER: u64 = 0x100;
    /// `GITS_PIDR4`, the first of the identification registers.
    pub const PIDR4: u64 = 0xffd0;
    /// `GITS_TRANSLATER`: the doorbell that a device writes an EventID to; in the second frame.
    pub const TRANSLATER: u64 = 0x1_0040;
}

/// Offsets of the distributor's registers in its frame; those with a bit or more per interrupt are the first of an array.
pub mod gicd {
    /// `GICD_CTLR`.
    pub const CTLR: u32 = 0x0;
    /// `GICD_IIDR`; bits 15 to 12 are the revision of the controller's behaviour.
    pub const IIDR: u32 = 0x8;
    /// `GICD_IGROUPR`: a bit each.
    pub const IGROUPR: u32 = 0x80;
    /// `GICD_ISENABLER`: a bit each; a write of ones enables.
    pub const ISENABLER: u32 = 0x100;
    /// `GICD_ICENABLER`: a bit each; a write of ones disables.
    pub const ICENABLER: u32 = 0x180;
    /// `GICD_ISPENDR`: a bit each; user space writes it as it is to be.
    pub const ISPENDR: u32 = 0x200;
    /// `GICD_ISACTIVER`: a bit each; a write of ones activates.
    pub const ISACTIVER: u32 = 0x300;
    /// `GICD_ICACTIVER`: a bit each; a write of ones deactivates.
    pub const ICACTIVER: u32 = 0x380;
    /// `GICD_IPRIORITYR`: eight bits each.
    pub const IPRIORITYR: u32 = 0x400;
    /// `GICD_ICFGR`: two bits each, edge or level.
    pub const ICFGR: u32 = 0xc00;
    /// `GICD_IROUTER`: 64 bits each, of which KVM has the lower half.
    pub const IROUTER: u32 = 0x6000;
}

/// Offsets of a redistributor's registers in its frame.
pub mod gicr {
    /// `GICR_CTLR`; bit 0 enables LPIs.
    pub const CTLR: u64 = 0x0;
    /// `GICR_IIDR`.
    pub const IIDR: u64 = 0x4;
    /// `GICR_TYPER`.
    pub const TYPER: u64 = 0x8;
    /// `GICR_STATUSR`.
    pub const STATUSR: u64 = 0x10;
    /// `GICR_WAKER`.
    pub const WAKER: u64 = 0x14;
    /// `GICR_PROPBASER`: the LPI configuration table; one register for all redistributors.
    pub const PROPBASER: u64 = 0x70;
    /// `GICR_PENDBASER`: the LPI pending table.
    pub const PENDBASER: u64 = 0x78;
    /// `GICR_INVLPIR`: reads one LPI's configuration anew.
    pub const INVLPIR: u64 = 0xa0;
    /// `GICR_INVALLR`: reads the configuration of all LPIs of this vCPU anew.
    pub const INVALLR: u64 = 0xb0;
    /// `GICR_SYNCR`.
    pub const SYNCR: u64 = 0xc0;
    /// `GICR_IDREGS`, the first of the identification registers.
    pub const IDREGS: u64 = 0xffd0;
    /// The frame of the vCPU's own interrupts, which has the registers of [`gicd`](super::gicd) for INTIDs below 32.
    pub const SGI_FRAME: u64 = 0x1_0000;
}

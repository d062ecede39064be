//! The interrupt controller's frames as the guest reaches them.

use super::{
    Gic, State,
    bits::Part,
    frames::FRAME,
    host::Host,
    its::{self, find_register},
    redistributor,
};
/// What holds a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Distributor,
    Redistributor {
        vcpu: u32,
        last: bool,
    },
    /// By its place in the order of creation.
    Its(usize),
}

impl State {
    /// The frame that `gpa` lies in, and the offset in it.
    fn frame(&self, gpa: u64, host: &dyn Host) -> Option<(Frame, u64)> {
        let offset_in = |base: Option<u64>, len| {
            base.and_then(|base| gpa.checked_sub(base)).filter(|&offset| offset < len)
        };
        let its = self
            .its
            .iter()
            .enumerate()
            .find_map(|(i, its)| Some((Frame::Its(i), offset_in(its.base, its::LEN)?)));
        its.or_else(|| Some((Frame::Distributor, offset_in(self.distributor.frames.distributor(), FRAME)?)))
            .or_else(|| {
                let (vcpu, offset, last) = self.distributor.frames.redistributor_at(gpa, &host.vcpus())?;
                Some((Frame::Redistributor { vcpu, last }, offset))
            })
    }

    /// The ITS whose frames hold `gpa`.
    pub(super) fn its_at(&self, gpa: u64) -> Option<usize> {
        self.its.iter().position(|its| its.base.is_some_and(|base| gpa >= base && gpa - base < its::LEN))
    }
}

impl Gic {
    /// A guest's store; false if `gpa` is in no frame of the interrupt controller. What is no register, and every access
    /// a register does not take, is ignored.
    ///
    /// Runs in the vCPU's context: commands that a store of `GITS_CWRITER` executes dirty pages of its ring.
    pub(crate) fn guest_write(&self, host: &dyn Host, gpa: u64, data: &[u8]) -> bool {
        let state = &mut *self.state();
        let Some((frame, offset)) = state.frame(gpa, host) else { return false };
        let mut bytes = [0; 8];
        let Some(low) = bytes.get_mut(..data.len()) else { return true };
        low.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        match frame {
            Frame::Distributor => {}
            Frame::Redistributor { vcpu, .. } => {
                if let Some((register, part)) = access(redistributor::find(offset), offset, data.len()) {
                    state.distributor.write_redistributor(host, vcpu, register, part, value);
                }
            }
            Frame::Its(index) => {
                if let Some((register, part)) = access(find_register(offset), offset, data.len()) {
                    let write = (register, part, value);
                    state.its[index].write(&mut state.distributor, host, state.rules, write);
                }
            }
        }
        true
    }

    /// A guest's load; false if `gpa` is in no frame of the interrupt controller. What is no register reads as zero.
    pub(crate) fn guest_read(&self, host: &dyn Host, gpa: u64, data: &mut [u8]) -> bool {
        let state = &*self.state();
        let Some((frame, offset)) = state.frame(gpa, host) else { return false };
        let value = match frame {
            Frame::Distributor => 0,
            Frame::Redistributor { vcpu, last } => access(redistributor::find(offset), offset, data.len())
                .map_or(0, |(register, part)| {
                    state.distributor.read_redistributor(vcpu, last, register, part)
                }),
            Frame::Its(index) => access(find_register(offset), offset, data.len())
                .map_or(0, |(register, part)| state.its[index].read(register, part)),
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        true
    }
}

/// The register and the part of it that an access of `len` bytes reaches; none if the register does not take it.
fn access<R>(found: Option<(R, bool)>, offset: u64, len: usize) -> Option<(R, Part)> {
    let (register, wide) = found?;
    let part =
        if wide { Part::of(offset, len)? } else { Part::of(offset & 3, len).filter(|&p| p == Part::Low)? };
    Some((register, part))
}

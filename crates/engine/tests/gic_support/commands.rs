//! Commands of an ITS as a driver writes them.

pub type Command = [u64; 4];

const VALID: u64 = 1 << 63;

fn device_event(number: u64, device: u32, event: u32, collection: u16) -> Command {
    [number | u64::from(device) << 32, event.into(), collection.into(), 0]
}

pub fn mapd(device: u32, itt: u64, event_bits: u32) -> Command {
    [0x08 | u64::from(device) << 32, u64::from(event_bits - 1), VALID | itt, 0]
}

pub fn unmapd(device: u32) -> Command {
    [0x08 | u64::from(device) << 32, 0, 0, 0]
}

pub fn mapc(collection: u16, vcpu: u32) -> Command {
    [0x09, 0, VALID | u64::from(vcpu) << 16 | u64::from(collection), 0]
}

pub fn unmapc(collection: u16) -> Command {
    [0x09, 0, collection.into(), 0]
}

pub fn mapti(device: u32, event: u32, lpi: u32, collection: u16) -> Command {
    [0x0a | u64::from(device) << 32, u64::from(event) | u64::from(lpi) << 32, collection.into(), 0]
}

pub fn mapi(device: u32, event: u32, collection: u16) -> Command {
    device_event(0x0b, device, event, collection)
}

pub fn movi(device: u32, event: u32, collection: u16) -> Command {
    device_event(0x01, device, event, collection)
}

pub fn int(device: u32, event: u32) -> Command {
    device_event(0x03, device, event, 0)
}

pub fn clear(device: u32, event: u32) -> Command {
    device_event(0x04, device, event, 0)
}

pub fn inv(device: u32, event: u32) -> Command {
    device_event(0x0c, device, event, 0)
}

pub fn discard(device: u32, event: u32) -> Command {
    device_event(0x0f, device, event, 0)
}

pub fn sync(vcpu: u32) -> Command {
    [0x05, 0, u64::from(vcpu) << 16, 0]
}

pub fn invall(collection: u16) -> Command {
    [0x0d, 0, collection.into(), 0]
}

pub fn movall(from: u32, to: u32) -> Command {
    [0x0e, 0, u64::from(from) << 16, u64::from(to) << 16]
}

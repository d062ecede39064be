#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ringmark_machine::fuzzing::machine(bytes);
});

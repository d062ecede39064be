#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringmark_image::fuzzing::metadata(bytes));

//! Mailboxes, saved states and start information that are not what they should be.

mod common;

use common::{Machine, PAGE, Words, config};
use proptest::prelude::*;
use ringmark_guest::{
    Config, ConfigError, Control, HeaderError, MAGIC, Pattern, Program, RestoreError, StartInfo,
    StartInfoError,
};

fn sound() -> Config {
    config(2, 50, Pattern::Zipf, 3)
}

#[test]
fn a_published_configuration_reads_back() {
    for pattern in Pattern::ALL {
        let config = Config { pattern, pace: 7, ..sound() };
        let mut memory = Words::for_config(&config);
        config.publish(&mut memory, Control::check(9)).expect("no fuse");
        assert_eq!(Config::load(&mut memory, config.mailbox), Ok(config));
        assert_eq!(config.control(&mut memory), Ok(Some(Control::check(9))));
    }
}

#[test]
fn a_header_that_is_damaged_is_refused() {
    let config = sound();
    let mut memory = Words::for_config(&config);
    config.publish(&mut memory, Control::RUN).expect("no fuse");
    let start = usize::try_from(config.mailbox / 8).expect("small");
    for word in 0..14 {
        let mut memory = memory.clone();
        memory.words[start + word] ^= 1 << 9;
        let error = Config::load(&mut memory, config.mailbox).expect_err("one bit is wrong");
        match word {
            0 => assert_eq!(error, HeaderError::Magic { mailbox: config.mailbox, magic: MAGIC ^ 1 << 9 }),
            1 => assert_eq!(error, HeaderError::Version(1 ^ 1 << 9)),
            _ => assert_eq!(error, HeaderError::Checksum { mailbox: config.mailbox }),
        }
    }
    let page = memory.page(config.mailbox / PAGE);
    memory.put_page(0, &page);
    assert_eq!(
        Config::load(&mut memory, 0),
        Err(HeaderError::Moved { mailbox: 0, made_for: config.mailbox })
    );
}

#[test]
fn impossible_configurations_are_refused() {
    let sound = sound();
    assert_eq!(sound.validate(), Ok(()));
    let cases = [
        (Config { page_size: 4095, ..sound }, ConfigError::PageSize(4095)),
        (Config { page_size: 256, ..sound }, ConfigError::PageSize(256)),
        (Config { pages: 0, ..sound }, ConfigError::Pages(0)),
        (Config { pages: Config::MAX_PAGES + 1, ..sound }, ConfigError::Pages(Config::MAX_PAGES + 1)),
        (Config { writers: 0, ..sound }, ConfigError::Writers { writers: 0, lanes: 8 }),
        (Config { writers: 9, ..sound }, ConfigError::Writers { writers: 9, lanes: 8 }),
        (Config { pattern: Pattern::Bursty { burst: 0, idle: 1 }, ..sound }, ConfigError::Pattern),
        (Config { mailbox: 8, ..sound }, ConfigError::Region { start: 8, bytes: 4 * PAGE }),
        (Config { hot: !511, ..sound }, ConfigError::Region { start: !511, bytes: 50 * PAGE }),
        (
            Config { hot: sound.ledger, ..sound },
            ConfigError::Overlap { first: sound.ledger, second: sound.ledger },
        ),
        (
            Config { ledger: sound.mailbox + PAGE, ..sound },
            ConfigError::Overlap { first: sound.mailbox, second: sound.mailbox + PAGE },
        ),
    ];
    for (config, error) in cases {
        assert_eq!(config.validate(), Err(error), "{config:?}");
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(Program::new(sound, 2).err(), Some(ConfigError::Writer { writer: 2, writers: 2 }));
}

#[test]
fn regions_are_laid_where_there_is_room() {
    let wanted = sound();
    let bytes = wanted.ledger_bytes() + wanted.hot_bytes();
    let start = wanted.mailbox + wanted.mailbox_bytes();
    assert!(wanted.place(start, start + bytes).is_ok());
    let end = start + bytes - 1;
    assert_eq!(wanted.place(start, end), Err(ConfigError::NoRoom { bytes, start, end }));
    assert!(wanted.place(u64::MAX, u64::MAX).is_err());
    assert!(wanted.place(start, 0).is_err());
    assert!(matches!(wanted.place(wanted.mailbox, u64::MAX), Err(ConfigError::Overlap { .. })));
}

proptest! {
    #[test]
    fn arbitrary_words_make_no_program_or_one_that_runs(
        changes in prop::collection::vec((0..Program::WORDS, prop_oneof![any::<u64>(), 0..5_u64]), 1..4),
        steps in 0..30_u64,
    ) {
        let mut machine = Machine::new(sound());
        machine.run(steps);
        let mut words = machine.programs[0].to_words();
        let mut configured = false;
        for (at, word) in changes {
            words[at] = word;
            configured |= (10..21).contains(&at);
        }
        if let Ok(program) = Program::from_words(&words)
            && !configured
        {
            let saved = program.to_words();
            prop_assert_eq!(Program::from_words(&saved).expect("its own words").to_words(), saved);
            machine.programs[0] = program;
            for _ in 0..50 {
                let _ = machine.step(0);
            }
            machine.control(Control::check(1));
            for _ in 0..5 {
                let _ = machine.step(0);
            }
        }
    }
}

#[test]
fn saved_states_say_what_is_wrong_with_them() {
    let words = Machine::new(sound()).programs[0].to_words();
    let with = |at: usize, word| {
        let mut words = words;
        words[at] = word;
        Program::from_words(&words).err()
    };
    assert_eq!(with(0, 5), Some(RestoreError::Format));
    assert_eq!(with(1, 5), Some(RestoreError::Config(ConfigError::Writer { writer: 5, writers: 2 })));
    assert_eq!(with(10, 3), Some(RestoreError::Config(ConfigError::PageSize(3))));
    assert_eq!(with(22, 50), Some(RestoreError::Picker));
    assert_eq!(with(24, 51), Some(RestoreError::InFlight { page: 50, pages: 50 }));
}

/// Memory with start information at 0, a command line at 0x103 and a memory map at 0x200.
fn started(line: &str) -> Words {
    let mut bytes = vec![0_u8; 0x1000];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &0x336e_c578_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(24, &0x103_u64.to_le_bytes());
    put(40, &0x200_u64.to_le_bytes());
    put(48, &3_u32.to_le_bytes());
    put(0x103, line.as_bytes());
    let map = [[0, 0xa_0000, 1], [0x10_0000, 0x3f0_0000, 1], [0x1000_0000, 0x4000_0000, 2]];
    for (at, entry) in (0x200..).step_by(24).zip(map) {
        for (at, word) in (at..).step_by(8).zip(entry) {
            put(at, &u64::to_le_bytes(word));
        }
    }
    let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    Words { words: words.collect(), fuse: None }
}

#[test]
fn start_information_is_read() {
    let mut memory = started("hot=16M pattern=zipf");
    let info = StartInfo::load(&mut memory, 0).expect("start information");
    let mut buffer = [0; 64];
    assert_eq!(info.command_line(&mut memory, &mut buffer), Ok("hot=16M pattern=zipf"));
    assert_eq!(info.command_line(&mut memory, &mut buffer[..6]), Ok("hot=16"));
    assert_eq!(info.largest_ram(&mut memory, 0x20_0000), Ok(0x20_0000..0x400_0000));
    assert_eq!(info.largest_ram(&mut memory, 0x400_0000), Ok(0..0));

    assert_eq!(StartInfo::load(&mut memory, 4), Err(StartInfoError::Unaligned(4)));
    assert_eq!(StartInfo::load(&mut memory, 8), Err(StartInfoError::Magic { gpa: 8, magic: 0 }));
    let mut binary = started("hot=\u{e9}");
    assert_eq!(info.command_line(&mut binary, &mut buffer), Ok("hot="));
}

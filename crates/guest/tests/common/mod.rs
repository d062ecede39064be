//! A guest memory of plain words whose power can be cut at any store.
#![allow(dead_code, reason = "each test file uses a part of it")]

use ringmark_guest::{
    Config, Control, Load, Memory, Pattern, Program, Report, Step, check_result, inspect, request_check,
};

pub(crate) const PAGE: u64 = 512;

/// The access that was not allowed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

#[derive(Clone, Debug)]
pub(crate) struct Words {
    pub(crate) words: Vec<u64>,
    /// Stores and loads left before every further one fails; `None` for no limit.
    pub(crate) fuse: Option<u64>,
}

impl Words {
    pub(crate) fn for_config(config: &Config) -> Self {
        let bytes = config.hot + config.hot_bytes();
        Self { words: vec![0; usize::try_from(bytes / 8).expect("small")], fuse: None }
    }

    pub(crate) fn page(&self, gfn: u64) -> Vec<u64> {
        self.words[range(gfn)].to_vec()
    }

    pub(crate) fn put_page(&mut self, gfn: u64, page: &[u64]) {
        self.words[range(gfn)].copy_from_slice(page);
    }

    fn burn(&mut self) -> Result<(), Cut> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.checked_sub(1).ok_or(Cut)?;
        }
        Ok(())
    }
}

fn range(gfn: u64) -> std::ops::Range<usize> {
    let words = usize::try_from(PAGE / 8).expect("small");
    let start = usize::try_from(gfn).expect("small") * words;
    start..start + words
}

fn index(gpa: u64) -> usize {
    assert!(gpa.is_multiple_of(8), "{gpa:#x} is not aligned");
    usize::try_from(gpa / 8).expect("small")
}

impl Load for Words {
    type Error = Cut;

    fn load(&mut self, gpa: u64) -> Result<u64, Cut> {
        self.burn()?;
        Ok(self.words[index(gpa)])
    }
}

impl Memory for Words {
    fn store(&mut self, gpa: u64, value: u64) -> Result<(), Cut> {
        self.burn()?;
        self.words[index(gpa)] = value;
        Ok(())
    }
}

pub(crate) fn config(writers: u64, pages: u64, pattern: Pattern, seed: u64) -> Config {
    let wanted =
        Config { mailbox: PAGE, page_size: PAGE, hot: 0, pages, ledger: 0, writers, pattern, pace: 0, seed };
    wanted.place(PAGE + wanted.mailbox_bytes(), 1 << 30).expect("a sound configuration")
}

/// A machine of software vCPUs.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) config: Config,
    pub(crate) memory: Words,
    pub(crate) programs: Vec<Program>,
}

impl Machine {
    pub(crate) fn new(config: Config) -> Self {
        let mut memory = Words::for_config(&config);
        config.publish(&mut memory, Control::RUN).expect("no fuse");
        let programs =
            (0..config.writers).map(|writer| Program::new(config, writer).expect("a writer")).collect();
        Self { config, memory, programs }
    }

    pub(crate) fn step(&mut self, writer: u64) -> Result<Step, Cut> {
        let writer = usize::try_from(writer % self.config.writers).expect("small");
        self.programs[writer].step(&mut self.memory)
    }

    /// Steps every program until it has written `pages` more.
    pub(crate) fn run(&mut self, pages: u64) {
        self.control(Control::RUN);
        for writer in 0..self.config.writers {
            let mut left = pages;
            while left > 0 {
                left -= u64::from(matches!(self.step(writer), Ok(Step::Wrote(_))));
            }
        }
    }

    /// Lets every program finish the page it is writing.
    pub(crate) fn settle(&mut self) {
        self.memory.fuse = None;
        self.control(Control::STOP);
        for writer in 0..self.config.writers {
            while self.step(writer).expect("no fuse") != Step::Stopped {}
        }
        self.control(Control::RUN);
    }

    pub(crate) fn control(&mut self, control: Control) {
        self.config.set_control(&mut self.memory, control).expect("no fuse");
    }

    pub(crate) fn inspect(&mut self) -> Report {
        self.memory.fuse = None;
        inspect(&mut self.memory, &self.config).expect("no fuse")
    }

    /// What the programs themselves find.
    pub(crate) fn check(&mut self) -> Report {
        self.memory.fuse = None;
        let number = request_check(&mut self.memory, &self.config).expect("no fuse");
        for writer in 0..self.config.writers {
            while self.step(writer).expect("no fuse") != Step::Holding {}
        }
        let report = check_result(&mut self.memory, &self.config, number).expect("no fuse");
        self.control(Control::RUN);
        report.expect("every program has finished its check")
    }

    /// Every program replaced by one made from its saved words.
    pub(crate) fn save_and_restore(&mut self) {
        for program in &mut self.programs {
            *program = Program::from_words(&program.to_words()).expect("a program's own words");
        }
    }
}

pub(crate) fn patterns() -> impl proptest::strategy::Strategy<Value = Pattern> {
    proptest::sample::select(
        &[
            Pattern::Sequential,
            Pattern::Uniform,
            Pattern::Zipf,
            Pattern::Bursty { burst: 3, idle: 2 },
            Pattern::Rewrite,
        ][..],
    )
}

//! Arguments of `diff`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::StoreArgs;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The older image: a machine's name, for its newest image, or an image's identity or the beginning of one.
    #[arg(value_name = "A")]
    a: String,

    /// The newer image, named likewise.
    #[arg(value_name = "B")]
    b: String,

    /// With --heat: the file of the picture, which ends in `.png` or `.svg`.
    #[arg(value_name = "FILE", requires = "heat")]
    file: Option<String>,

    /// Show where memory differs: in the terminal, or as a picture in FILE.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    heat: Option<Option<PathBuf>>,

    /// List every run of pages, however many there are.
    #[arg(long)]
    pub(crate) all: bool,

    /// Where images live.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// What a picture is painted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Canvas {
    /// The terminal.
    Terminal,
    /// A file.
    File(PathBuf),
}

impl DiffArgs {
    /// The two images, and where a picture goes if one is asked for.
    ///
    /// The file stands with or without `=` behind `--heat`, and so anywhere among the words that name images.
    pub(crate) fn parts(&self) -> Result<([&str; 2], Option<Canvas>), String> {
        let mut words: Vec<&str> = vec![&self.a, &self.b];
        words.extend(self.file.as_deref());
        let mut canvas = match &self.heat {
            None => None,
            Some(None) => Some(Canvas::Terminal),
            Some(Some(file)) => Some(Canvas::File(file.clone())),
        };
        if words.len() == 3 {
            let picture = words.iter().position(|word| is_picture(Path::new(word)));
            match (picture, &canvas) {
                (Some(index), Some(Canvas::Terminal)) => {
                    canvas = Some(Canvas::File(words.remove(index).into()));
                }
                _ => return Err("a picture goes to one file that ends in .png or .svg".into()),
            }
        }
        match canvas {
            Some(Canvas::File(file)) if !is_picture(&file) => {
                Err(format!("{} does not end in .png or .svg", file.display()))
            }
            canvas => Ok(([words[0], words[1]], canvas)),
        }
    }
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "png" || extension == "svg")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        diff: DiffArgs,
    }

    fn parts(words: &[&str]) -> Option<(String, Option<Canvas>)> {
        let program = Program::try_parse_from([&["diff"], words].concat()).ok()?;
        program.diff.parts().ok().map(|(images, canvas)| (images.concat(), canvas))
    }

    #[test]
    fn a_picture_goes_where_it_is_said() {
        let file = Some(Canvas::File("x.png".into()));
        for words in [
            &["a", "b", "--heat", "x.png"][..],
            &["--heat", "x.png", "a", "b"],
            &["a", "b", "--heat=x.png"],
            &["--heat=x.png", "a", "b"],
        ] {
            assert_eq!(parts(words), Some(("ab".into(), file.clone())), "{words:?}");
        }
        for words in [&["--heat", "a", "b"][..], &["a", "b", "--heat"]] {
            assert_eq!(parts(words), Some(("ab".into(), Some(Canvas::Terminal))), "{words:?}");
        }
        assert_eq!(parts(&["a", "b"]), Some(("ab".into(), None)));
        for words in
            [&["a", "b", "x.png"][..], &["a"], &["a", "b", "c", "--heat"], &["a", "b", "--heat=x.gif"]]
        {
            assert_eq!(parts(words), None, "{words:?}");
        }
    }
}

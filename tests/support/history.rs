//! Makes git histories from a seed, with what makes real ones awkward: merges, roots, renames,
//! binaries, submodules, empty commits, line ends of two kinds, names that are not text.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A repository that was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub commits: u64,
    pub merges: u64,
    pub roots: u64,
    pub empty: u64,
    pub renames: u64,
    pub binaries: u64,
    pub odd_paths: u64,
}

/// Paths as fast-import quotes them: spaces, tabs, newlines, quotes, backslashes, other encodings.
const ODD_PATHS: [&str; 8] = [
    "\"sp ace/a b.txt\"",
    "\"tab\\there.md\"",
    "\"new\\nline.rs\"",
    "\"quo\\\"te.c\"",
    "\"back\\\\slash.h\"",
    "\"latin-\\351t\\351.txt\"",
    "\"utf8-\\303\\244.\\303\\266\"",
    "\"dir.d/.hidden\"",
];

const EXTENSIONS: [&str; 7] = [".rs", ".txt", ".md", ".c", "", ".tar.gz", ".RS"];

/// Makes a repository of so many commits at `folder`, which must not exist.
pub fn make(folder: &Path, seed: u64, commits: u64) -> Made {
    let status = Command::new("git").args(["init", "-q"]).arg(folder).status().expect("git runs");
    assert!(status.success(), "git init");
    let mut import = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["fast-import", "--quiet", "--date-format=raw"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("git fast-import runs");
    let out = BufWriter::new(import.stdin.take().expect("stdin is a pipe"));
    let mut maker = Maker::new(out, seed);
    for number in 1..=commits {
        maker.commit(number, commits).expect("fast-import reads");
    }
    let Maker { mut out, made, .. } = maker;
    out.flush().expect("fast-import reads");
    drop(out);
    assert!(import.wait().expect("it was started").success(), "git fast-import");
    let head = ["symbolic-ref", "HEAD", "refs/heads/made"];
    let status = Command::new("git").arg("-C").arg(folder).args(head).status().expect("git runs");
    assert!(status.success(), "git symbolic-ref");
    made
}

struct Maker<W> {
    out: W,
    random: Pcg64Mcg,
    made: Made,
    /// The marks of the side branch and of the main one.
    side: Option<u64>,
    main: Option<u64>,
    /// Paths that exist on the main branch.
    paths: Vec<String>,
}

impl<W: Write> Maker<W> {
    fn new(out: W, seed: u64) -> Self {
        let random = Pcg64Mcg::seed_from_u64(seed);
        Self { out, random, made: Made::default(), side: None, main: None, paths: Vec::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn commit(&mut self, number: u64, last: u64) -> std::io::Result<()> {
        self.made.commits += 1;
        let kind = self.below(100);
        let merges = self.side.is_some() && (kind < 12 || number == last);
        // The last commit is on the main branch, so that all of the history is reached from it.
        let on_side = !merges && number != last && self.main.is_some() && kind < 30;
        let (branch, parent) =
            if on_side { ("side", self.side.or(self.main)) } else { ("made", self.main) };
        // A second root, as merged repositories have them.
        let root = parent.is_none() || (on_side && self.side.is_none() && kind < 14);
        self.header(branch, number)?;
        if !root {
            writeln!(self.out, "from :{}", parent.expect("only a root has none"))?;
        }
        self.made.roots += u64::from(root);
        if merges {
            writeln!(self.out, "merge :{}", self.side.take().expect("looked at above"))?;
            self.made.merges += 1;
        }
        if kind >= 96 && !root {
            self.made.empty += 1;
        } else {
            self.changes(on_side, merges, number)?;
        }
        writeln!(self.out)?;
        if on_side {
            self.side = Some(number)
        } else {
            self.main = Some(number)
        }
        Ok(())
    }

    fn header(&mut self, branch: &str, number: u64) -> std::io::Result<()> {
        if branch == "side" && self.side.is_none() {
            writeln!(self.out, "reset refs/heads/side\n")?;
        }
        writeln!(self.out, "commit refs/heads/{branch}\nmark :{number}")?;
        let who: &[u8] = match self.below(6) {
            0 => b"Ada <ada@example.org>",
            1 => "Zo\u{eb} \u{6587} <zoe@example.org>".as_bytes(),
            2 => b"J\xfcrgen <j\xfcrgen@example.org>",
            3 => b"=Odd, \"name\" <>",
            4 => b"Ada <ada@elsewhere.example.org>",
            _ => b"bot[1] <b@c>",
        };
        self.out.write_all(b"author ")?;
        self.out.write_all(who)?;
        writeln!(self.out, " {} +0000", 1_700_000_000 + number)?;
        writeln!(self.out, "committer C <c@example.org> {} +0000", 1_700_000_000 + number)?;
        let message = format!("commit {number}\n\n=not a mark\n");
        writeln!(self.out, "data {}\n{message}", message.len())
    }

    fn changes(&mut self, on_side: bool, merges: bool, number: u64) -> std::io::Result<()> {
        let renames = !on_side && !merges && self.paths.len() > 4 && self.below(10) == 0;
        if renames {
            let index = usize::try_from(self.below(self.paths.len() as u64)).expect("an index");
            let from = self.paths.swap_remove(index);
            let to = format!("renamed/{number}.txt");
            writeln!(self.out, "R {from} {to}")?;
            self.paths.push(to);
            self.made.renames += 1;
        }
        // A few commits touch many files at once.
        let files = if self.below(200) == 0 { 1_200 } else { 1 + self.below(4) };
        for file in 0..files {
            let path = if on_side { format!("side/{number}/{file}.rs") } else { self.path(file) };
            self.file(&path)?;
            if !on_side && !self.paths.contains(&path) && self.paths.len() < 400 {
                self.paths.push(path);
            }
        }
        Ok(())
    }

    fn path(&mut self, file: u64) -> String {
        if self.below(8) == 0 {
            self.made.odd_paths += 1;
            let odd = self.below(ODD_PATHS.len() as u64);
            return ODD_PATHS[usize::try_from(odd).expect("an index")].to_owned();
        }
        let extension = self.below(EXTENSIONS.len() as u64);
        let extension = EXTENSIONS[usize::try_from(extension).expect("an index")];
        format!("src/{}/f{file}{extension}", self.below(12))
    }

    fn file(&mut self, path: &str) -> std::io::Result<()> {
        match self.below(20) {
            0 => {
                // A submodule is a commit of elsewhere.
                let oid = format!("{:040x}", self.random.next_u64() | 1);
                return writeln!(self.out, "M 160000 {oid} {path}");
            }
            1 => {
                self.made.binaries += 1;
                let mut data = vec![0; 64];
                self.random.fill_bytes(&mut data);
                data[7] = 0;
                writeln!(self.out, "M 100644 inline {path}\ndata {}", data.len())?;
                self.out.write_all(&data)?;
                return writeln!(self.out);
            }
            2 => {
                let target = format!("target{}", self.below(5));
                writeln!(self.out, "M 120000 inline {path}\ndata {}\n{target}", target.len())?;
                return Ok(());
            }
            _ => {}
        }
        let end = if self.below(5) == 0 { "\r\n" } else { "\n" };
        let mut text = String::new();
        for line in 0..self.below(30) {
            text.push_str(&format!("line {line} {}{end}", self.below(4)));
        }
        if self.below(6) == 0 {
            text.push_str("no end");
        }
        writeln!(self.out, "M 100644 inline {path}\ndata {}\n{text}", text.len())
    }
}

//! What the standard library leaves out about files and folders.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// What was done to something that may not be there: nothing, then.
pub(crate) fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes a file, or a folder with all that is in it, that nobody needs. What cannot be removed is in the
/// way of nothing: it takes its space.
pub(crate) fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = if_there(removed) {
        tracing::warn!(file = %path.display(), %error, "the space of what is not needed is not given back");
    }
}

/// Makes what was made, renamed and removed in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The file of a number in a folder, as `000000000041.seg`: sorted by name, they are by number.
pub(crate) fn numbered(folder: &Path, number: u64, extension: &str) -> PathBuf {
    folder.join(format!("{number:012}.{extension}"))
}

/// The number of such a file, if it is one.
pub(crate) fn number_of(path: &Path, extension: &str) -> Option<u64> {
    let name = path.file_name()?;
    let number = name.to_str()?.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()?;
    (numbered(Path::new(""), number, extension).file_name() == Some(name)).then_some(number)
}

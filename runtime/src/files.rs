//! What the standard library leaves out about files and folders.

use std::fs::File;
use std::io;
use std::path::Path;

/// What was done to something that may not be there: nothing, then.
pub(crate) fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes what was made, renamed and removed in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

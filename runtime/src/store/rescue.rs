//! Keeps what fjall would cut or delete while it opens a damaged log.
//!
//! fjall cuts a journal at the first entry that it cannot read, and deletes tables that it no
//! longer knows. So before it opens, `rescue/` gets a copy of each journal and a second name for
//! each table; when the log has proved complete, `rescue/` goes. After a refused open it stays, and
//! whoever repairs the log has everything that was there.
//!
//! The same pass makes the journals durable (R3): a page that an earlier process wrote, and whose
//! sync failed, may be clean in memory and missing on the device. Writing it again is the only way
//! to know.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use dpc_core::store::StoreError;

use super::io_error;

const CHUNK_BYTES: usize = 1 << 20;

/// Keeps the log at `log` under `rescue`, unless an earlier refused open left one there. With
/// `rewrite` the journals are written again and synced. Answers whether one was left.
pub(super) fn keep(log: &Path, rescue: &Path, rewrite: bool) -> Result<bool, StoreError> {
    // Made under another name first: half a rescue must never look like a whole one.
    let making = rescue.with_extension("new");
    let keep = |to: Option<&Path>| {
        drop_kept(&making)?;
        keep_folder(log, to, rewrite).map_err(|error| io_error(log, &error))
    };
    if rescue.exists() {
        return keep(None).map(|()| true);
    }
    match keep(Some(&making)) {
        Ok(()) => {
            fs::rename(&making, rescue).map_err(|error| io_error(rescue, &error))?;
            Ok(false)
        }
        // A full device must not keep the log from being opened and emptied.
        Err(StoreError::Full(why)) => {
            tracing::warn!(%why, "the log is opened without a copy of its journals");
            keep(None).map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// The log is complete: what was kept is not needed.
pub(super) fn drop_kept(rescue: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(rescue) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(rescue, &error)),
        _ => Ok(()),
    }
}

fn keep_folder(from: &Path, to: Option<&Path>, rewrite: bool) -> std::io::Result<()> {
    if let Some(to) = to {
        fs::create_dir(to)?;
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let to = to.map(|to| to.join(&name));
        if entry.file_type()?.is_dir() {
            keep_folder(&path, to.as_deref(), rewrite)?;
        } else if path.extension().is_some_and(|extension| extension == "jnl") {
            copy_journal(&path, to.as_deref(), rewrite)?;
        } else if let Some(to) = to {
            // Some file systems know no second names.
            fs::hard_link(&path, &to).or_else(|_| fs::copy(&path, &to).map(drop))?;
        }
    }
    Ok(())
}

/// Copies a journal, leaving out the blocks of zeros that fjall sets aside, and writes it again in
/// place if asked.
fn copy_journal(path: &Path, to: Option<&Path>, rewrite: bool) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let copy = to.map(File::create).transpose()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        let bytes = &chunk[..read];
        if bytes.iter().any(|byte| *byte != 0) {
            if let Some(copy) = &copy {
                copy.write_all_at(bytes, at)?;
            }
            if rewrite {
                file.write_all_at(bytes, at)?;
            }
        }
        at += read as u64;
    }
    if let Some(copy) = copy {
        copy.set_len(at)?;
    }
    if rewrite { file.sync_data() } else { Ok(()) }
}

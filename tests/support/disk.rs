//! A small disk that can be filled: a tmpfs. Mounting needs root; whoever cannot mount says so.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs, taken away again when dropped.
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Mounts a disk of so many bytes; the error says why that is not possible here.
    pub fn mount(bytes: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "dpc-test"])
            .arg(folder.path())
            .output()
            .map_err(|error| format!("mount cannot be started: {error}"))?;
        if mounted.status.success() {
            Ok(Self { folder })
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Fills it until so many bytes are free.
    pub fn fill(&self, leave: u64) {
        let mut file = std::fs::File::create(self.ballast()).expect("a ballast file");
        let mut block = vec![1; 1 << 20];
        loop {
            let free = runtime::store::disk_free(self.path()).expect("asked").saturating_sub(leave);
            block.truncate(usize::try_from(free).unwrap_or(usize::MAX).min(block.len()));
            match file.write(&block) {
                Ok(0) => return,
                Ok(_) => {}
                // Somebody else took the last of it.
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("filling a disk: {error}"),
            }
        }
    }

    /// Makes room again.
    pub fn free(&self) {
        match std::fs::remove_file(self.ballast()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => panic!("freeing a disk: {error}"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

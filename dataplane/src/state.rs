//! What the daemon leaves in its run directory for the CLI, besides the last table
//! ([`weir_table::saved`]): the list of endpoints.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The endpoints, as JSON.
pub const ENDPOINTS: &str = "endpoints.json";

/// Replaces a file's content by rename, readable by root alone: a reader sees the old or
/// the new one, never a half.
///
/// # Errors
/// When the directory cannot be written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ENDPOINTS);
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

//! Folders, and what is in them, by name: never through a symbolic link, and never another kind of file than was meant.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

/// Files are for whoever made the store.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::RWXU;

/// An open folder.
pub(super) struct Folder {
    fd: OwnedFd,
}

/// What has a name in a folder.
pub(super) enum Found {
    Absent,
    /// Somebody else has put it there.
    Irregular,
    /// A file, and its length.
    File(File, u64),
}

impl Folder {
    /// The one that the user has named, made if it is not there; this may be a symbolic link.
    pub(super) fn root(path: &Path) -> io::Result<Folder> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match rustix::fs::mkdirat(CWD, path, FOLDER_MODE) {
            // It outlives a power failure with what will be in it.
            Ok(()) => File::open(parent)?.sync_all()?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Folder { fd: retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))? })
    }

    /// A folder in this one, if it is there.
    pub(super) fn folder(&self, name: &str) -> io::Result<Option<Folder>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty())) {
            Ok(fd) => Ok(Some(Folder { fd })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(io::Error::other(format!("{name} is no folder; take it away"))),
            Err(error) => Err(error.into()),
        }
    }

    /// A folder in this one, made if it is not there.
    pub(super) fn folder_made(&self, name: &str) -> io::Result<Folder> {
        if let Some(folder) = self.folder(name)? {
            return Ok(folder);
        }
        match rustix::fs::mkdirat(&self.fd, name, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.folder(name)?.ok_or_else(|| io::Error::other(format!("{name} was taken away at once")))
    }

    /// A file, to be read.
    pub(super) fn file(&self, name: &str) -> io::Result<Found> {
        // A pipe that somebody has put there keeps nobody waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, Mode::empty())) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(Found::Irregular);
                }
                Ok(Found::File(File::from(fd), u64::try_from(stat.st_size).unwrap_or(0)))
            }
            Err(Errno::NOENT) => Ok(Found::Absent),
            Err(Errno::LOOP | Errno::NXIO) => Ok(Found::Irregular),
            Err(error) => Err(error.into()),
        }
    }

    /// A file to be written that nobody else has: what has its name is removed.
    pub(super) fn new_file(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, FILE_MODE))?))
    }

    /// A file to be locked, made if it is not there.
    pub(super) fn lock_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(retry_on_intr(|| rustix::fs::openat(&self.fd, name, flags, FILE_MODE))?))
    }

    /// What the name stands for now.
    pub(super) fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name in another folder, in the place of what has that name there.
    pub(super) fn rename(&self, name: &str, to: &Folder, to_name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, to_name)?)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the names in it are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fsync(&self.fd))?)
    }

    /// Tells each name in it, in no order. A name that is no text is none of ours.
    pub(super) fn each_name(&self, mut tell: impl FnMut(&str)) -> io::Result<()> {
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            match name.to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => tell(name),
            }
        }
        Ok(())
    }
}

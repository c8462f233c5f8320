//! The archive reader: headers of all tar dialects, PAX, GNU long names and sparse files, read as Go's archive/tar reads them.
//!
//! It is our own, over the tar crate's header types, because the crate's iterator splits PAX records at newlines (attributes
//! hold them), reads long names of any size into memory, and does not know PAX's sparse files.
use super::decompress::read_full;
use super::pax::{Records, decimal};
use super::reading;
use crate::error::{Error, Result};
use std::ffi::CString;
use std::io::{self, Read};
use tar::{GnuExtSparseHeader, Header};

const BLOCK: u64 = 512;
/// Largest PAX header or long name, as Go has it.
const SPECIAL: u64 = 1 << 20;
/// Most pieces of a sparse file: CVE-2025-58183 was the lack of such a bound.
const PIECES: usize = 1 << 16;

/// What an entry makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// Seconds since 1970 and nanoseconds.
pub(super) type Time = (i64, u32);

/// One entry; its data is what the archive reads next.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) modified: Time,
    pub(super) accessed: Option<Time>,
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    /// Length of the file, holes included.
    pub(super) size: u64,
    /// For a sparse file: offset and length of each piece of data.
    pub(super) pieces: Option<Vec<(u64, u64)>>,
}

/// A tar stream.
pub(super) struct Archive<R> {
    input: R,
    /// Data of the current entry that was not read yet.
    left: u64,
    /// Zeros that fill its last block.
    padding: u64,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R) -> Archive<R> {
        Archive { input, left: 0, padding: 0 }
    }

    /// The next entry; what is left of the last one's data is skipped. Global PAX headers say nothing about entries for Go and
    /// so for containerd: they are passed over.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut records = Records::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = unsigned(&header.as_old().size, "size")?;
            match header.as_bytes()[156] {
                b'x' => records = Records::parse(&self.special(size)?)?,
                b'g' => drop(self.special(size)?),
                b'L' => long_path = Some(until_zero(&self.special(size)?).to_vec()),
                b'K' => long_link = Some(until_zero(&self.special(size)?).to_vec()),
                flag => return self.entry(&header, flag, &records, (long_path, long_link)).map(Some),
            }
        }
    }

    /// Reads to the end of the stream: the diff ID covers whatever follows the archive.
    pub(super) fn drain(&mut self) -> Result<()> {
        let mut buf = vec![0; super::CHUNK];
        while read_full(&mut self.input, &mut buf).map_err(reading)? > 0 {}
        Ok(())
    }

    fn entry(&mut self, header: &Header, flag: u8, records: &Records, long: (Option<Vec<u8>>, Option<Vec<u8>>)) -> Result<Entry> {
        let old = header.as_old();
        let physical = match records.number("size")? {
            Some(size) => size,
            None => unsigned(&old.size, "size")?,
        };
        let times = Times::of(header, records)?;
        let path = records.get("path").map_or_else(|| plain_path(header, times.prefix), <[u8]>::to_vec);
        let link = records.get("linkpath").map_or_else(|| until_zero(&old.linkname).to_vec(), <[u8]>::to_vec);
        let mut entry = Entry {
            kind: Kind::File,
            path: long.0.unwrap_or(path),
            link: long.1.unwrap_or(link),
            mode: (number(&old.mode, "mode")? & 0o7777) as u32,
            uid: id(records, "uid", &old.uid)?,
            gid: id(records, "gid", &old.gid)?,
            modified: times.modified,
            accessed: times.accessed,
            device: device(header)?,
            xattrs: vec![],
            size: physical,
            pieces: None,
        };
        entry.kind = match flag {
            0 if entry.path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let name = entry.path.escape_ascii();
                return Err(Error::invalid(format!("\"{name}\": unknown type '{}' in the layer", other.escape_ascii())));
            }
        };
        for (name, value) in records.xattrs() {
            let name = CString::new(name).map_err(|_| Error::invalid("extended attribute with a zero byte in its name"))?;
            entry.xattrs.push((name, value.to_vec()));
        }
        if entry.kind == Kind::File {
            self.left = physical;
            self.padding = (BLOCK - physical % BLOCK) % BLOCK;
            physical.checked_add(self.padding).ok_or_else(|| Error::invalid("size in a header is too large"))?;
            self.sparse(header, flag, records, &mut entry)?;
        }
        Ok(entry)
    }

    /// Reads the map of a sparse file, in any of the four formats that GNU tar has had.
    fn sparse(&mut self, header: &Header, flag: u8, records: &Records, entry: &mut Entry) -> Result<()> {
        let numbers = if flag == b'S' {
            let numbers = self.old_map(header)?;
            entry.size = header.as_gnu().map_or(Ok(0), |gnu| unsigned(&gnu.realsize, "real size"))?;
            numbers
        } else {
            let version = (records.get("GNU.sparse.major"), records.get("GNU.sparse.minor"));
            let in_data = match version {
                (Some(b"1"), Some(b"0")) => true,
                (Some(b"0"), Some(b"0" | b"1")) => false,
                (None, None) if records.get("GNU.sparse.map").is_some() || !records.sparse_map()?.is_empty() => false,
                (None, None) => return Ok(()),
                _ => return Err(Error::invalid("sparse file of an unknown format")),
            };
            if let Some(name) = records.get("GNU.sparse.name") {
                entry.path = name.to_vec();
            }
            entry.size = match records.number("GNU.sparse.realsize")? {
                Some(size) => size,
                None => records.number("GNU.sparse.size")?.unwrap_or(entry.size),
            };
            if in_data { self.map_in_data()? } else { records.sparse_map()? }
        };
        entry.pieces = Some(pieces(&numbers, entry.size, self.left)?);
        Ok(())
    }

    fn old_map(&mut self, header: &Header) -> Result<Vec<u64>> {
        let gnu = header.as_gnu().ok_or_else(|| Error::invalid("sparse file in an archive that is not GNU's"))?;
        let mut numbers = vec![];
        let mut extension = GnuExtSparseHeader::new();
        let mut more = gnu.isextended[0] != 0;
        let add = |piece: &tar::GnuSparseHeader, numbers: &mut Vec<u64>| -> Result<()> {
            if piece.offset[0] != 0 && piece.numbytes[0] != 0 {
                numbers.extend([unsigned(&piece.offset, "sparse offset")?, unsigned(&piece.numbytes, "sparse length")?]);
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(|piece| add(piece, &mut numbers))?;
        while more {
            if read_full(&mut self.input, extension.as_mut_bytes()).map_err(reading)? < BLOCK as usize {
                return Err(cut_off());
            }
            extension.sparse.iter().try_for_each(|piece| add(piece, &mut numbers))?;
            bounded(&numbers)?;
            more = extension.isextended[0] != 0;
        }
        Ok(numbers)
    }

    /// Format 1.0: the data begins with decimal lines, filled up to a whole block.
    fn map_in_data(&mut self) -> Result<Vec<u64>> {
        let mut numbers = vec![];
        let mut line = vec![];
        let mut want = None;
        let mut block = [0; BLOCK as usize];
        loop {
            self.read_exact(&mut block).map_err(reading)?;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(Error::invalid("malformed sparse map"));
                    }
                    continue;
                }
                let number = decimal(&line).ok_or_else(|| Error::invalid("malformed sparse map"))?;
                line.clear();
                match want {
                    None => want = Some(usize::try_from(number).ok().filter(|n| *n <= PIECES).ok_or_else(too_many)? * 2),
                    Some(_) => numbers.push(number),
                }
                if want == Some(numbers.len()) {
                    return Ok(numbers);
                }
            }
        }
    }

    /// A header that passes its checksum; `None` at the archive's end, which is two blocks of zeros, or just the stream's end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        match read_full(&mut self.input, header.as_mut_bytes()).map_err(reading)? as u64 {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(cut_off()),
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            let got = read_full(&mut self.input, header.as_mut_bytes()).map_err(reading)? as u64;
            return match got {
                0 => Ok(None),
                BLOCK if header.as_bytes().iter().all(|b| *b == 0) => Ok(None),
                BLOCK => Err(Error::invalid("a lone block of zeros in the archive")),
                _ => Err(cut_off()),
            };
        }
        let bytes = header.as_bytes();
        let counted = |signed: bool| -> i64 {
            let value = |b: u8| if signed { i64::from(b as i8) } else { i64::from(b) };
            bytes.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { value(*b) }).sum()
        };
        let sum = number(&header.as_old().cksum, "checksum")?;
        // Ancient tars summed signed characters.
        if sum != counted(false) && sum != counted(true) {
            return Err(Error::invalid("a header's checksum is wrong: this is no tar archive, or a damaged one"));
        }
        Ok(Some(header))
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > SPECIAL {
            return Err(Error::invalid(format!("extended header of {size} bytes; {SPECIAL} are allowed")));
        }
        let mut data = vec![0; size as usize];
        (self.left, self.padding) = (size, (BLOCK - size % BLOCK) % BLOCK);
        self.read_exact(&mut data).map_err(reading)?;
        Ok(data)
    }

    fn skip(&mut self) -> Result<()> {
        let mut rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let mut buf = [0; 8192];
        while rest > 0 {
            let want = rest.min(buf.len() as u64) as usize;
            if read_full(&mut self.input, &mut buf[..want]).map_err(reading)? < want {
                return Err(cut_off());
            }
            rest -= want as u64;
        }
        Ok(())
    }
}

/// The current entry's data.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(buf.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buf[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside a file"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

fn cut_off() -> Error {
    reading(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off"))
}

fn too_many() -> Error {
    Error::invalid(format!("sparse file of more than {PIECES} pieces"))
}

fn bounded(numbers: &[u64]) -> Result<()> {
    if numbers.len() > 2 * PIECES { Err(too_many()) } else { Ok(()) }
}

/// Pieces in order, inside the file, and as long together as the data that follows.
fn pieces(numbers: &[u64], size: u64, data: u64) -> Result<Vec<(u64, u64)>> {
    bounded(numbers)?;
    let wrong = || Error::invalid("sparse map and data of a file do not agree");
    let (mut end, mut sum, mut all) = (0u64, 0u64, vec![]);
    if !numbers.len().is_multiple_of(2) {
        return Err(wrong());
    }
    for pair in numbers.chunks_exact(2) {
        let next = pair[0].checked_add(pair[1]).filter(|next| pair[0] >= end && *next <= size).ok_or_else(wrong)?;
        sum = sum.checked_add(pair[1]).ok_or_else(wrong)?;
        end = next;
        if pair[1] > 0 {
            all.push((pair[0], pair[1]));
        }
    }
    if sum == data { Ok(all) } else { Err(wrong()) }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.iter().position(|b| *b == 0).map_or(field, |end| &field[..end])
}

/// Octal text, or base 256 (two's complement) when the first bit is set.
fn number(field: &[u8], what: &str) -> Result<i64> {
    let wrong = || Error::invalid(format!("{what} in a header is no number"));
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
        // Twelve bytes at most: 96 bits.
        let value = field[1..].iter().fold(first, |n, b| n * 256 + i128::from(*b));
        return i64::try_from(value).map_err(|_| wrong());
    }
    let start = field.iter().position(|b| !matches!(b, 0 | b' ')).unwrap_or(field.len());
    let digits = until_zero(&field[start..]).trim_ascii_end();
    let value = digits.iter().try_fold(0i64, |n, d| n.checked_mul(8)?.checked_add(i64::from(d.checked_sub(b'0').filter(|d| *d < 8)?)));
    value.ok_or_else(wrong)
}

fn unsigned(field: &[u8], what: &str) -> Result<u64> {
    u64::try_from(number(field, what)?).map_err(|_| Error::invalid(format!("{what} in a header is negative")))
}

fn id(records: &Records, key: &str, field: &[u8]) -> Result<i64> {
    match records.number(key)? {
        Some(id) => i64::try_from(id).map_err(|_| Error::invalid(format!("{key} {id} in a PAX record is too large"))),
        None => number(field, key),
    }
}

fn is_ustar(header: &Header) -> bool {
    header.as_bytes()[257..].starts_with(b"ustar\0")
}

fn is_star(header: &Header) -> bool {
    is_ustar(header) && header.as_bytes()[508..] == *b"tar\0"
}

/// Where the old header keeps more of the path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    Ustar,
    Star,
}

fn plain_path(header: &Header, prefix: Prefix) -> Vec<u8> {
    let name = until_zero(&header.as_old().name);
    let prefix = match prefix {
        Prefix::None => return name.to_vec(),
        Prefix::Ustar => until_zero(&header.as_bytes()[345..500]),
        Prefix::Star => until_zero(&header.as_bytes()[345..476]),
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

struct Times {
    modified: Time,
    accessed: Option<Time>,
    prefix: Prefix,
}

impl Times {
    /// GNU and star keep an access time where ustar keeps the end of the prefix. Old Go wrote GNU's magic with ustar's prefix:
    /// when the times are no numbers, it is that.
    fn of(header: &Header, records: &Records) -> Result<Times> {
        let (mut prefix, mut accessed) = (Prefix::None, None);
        if let Some(gnu) = header.as_gnu() {
            let read = |field: &[u8]| if field[0] == 0 { Ok(None) } else { number(field, "time").map(Some) };
            match (read(&gnu.atime), read(&gnu.ctime)) {
                (Ok(atime), Ok(_)) => accessed = atime,
                _ => prefix = Prefix::Ustar,
            }
        } else if is_star(header) {
            prefix = Prefix::Star;
            accessed = Some(number(&header.as_bytes()[476..488], "time")?);
        } else if is_ustar(header) {
            prefix = Prefix::Ustar;
        }
        let modified = match records.time("mtime")? {
            Some(time) => time,
            None => (number(&header.as_old().mtime, "time")?, 0),
        };
        let accessed = records.time("atime")?.or(accessed.map(|seconds| (seconds, 0)));
        Ok(Times { modified, accessed, prefix })
    }
}

fn device(header: &Header) -> Result<(u32, u32)> {
    if !is_ustar(header) && header.as_gnu().is_none() {
        return Ok((0, 0));
    }
    let part = |range: std::ops::Range<usize>| {
        let value = number(&header.as_bytes()[range], "device number")?;
        u32::try_from(value).map_err(|_| Error::invalid(format!("device number {value} in a header is out of range")))
    };
    Ok((part(329..337)?, part(337..345)?))
}

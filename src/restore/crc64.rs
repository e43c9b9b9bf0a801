//! CRC-64 with the ECMA-182 polynomial, reflected, as mongodump archives end each namespace with it
//! (catalogued as CRC-64/XZ).

/// ECMA-182, reflected.
const POLYNOMIAL: u64 = 0xC96C_5795_D787_0F42;
/// Bytes taken at a time.
const SLICES: usize = 8;

static TABLES: [[u64; 256]; SLICES] = tables();

const fn tables() -> [[u64; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < SLICES {
        let mut byte = 0;
        while byte < 256 {
            let below = tables[slice - 1][byte];
            tables[slice][byte] = (below >> 8) ^ tables[0][(below & 0xFF) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// A checksum in the making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Crc64(u64);

impl Crc64 {
    /// Takes further bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut crc = !self.0;
        let mut chunks = bytes.chunks_exact(SLICES);
        for chunk in &mut chunks {
            let word = crc ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes"));
            crc = word
                .to_le_bytes()
                .into_iter()
                .zip(TABLES.iter().rev())
                .fold(0, |sum, (byte, table)| sum ^ table[usize::from(byte)]);
        }
        for byte in chunks.remainder() {
            crc = (crc >> 8) ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
        }
        self.0 = !crc;
    }

    /// The checksum of what was taken in.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Crc64;

    #[test]
    fn the_catalogued_check_value() {
        let mut crc = Crc64::default();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0x995D_C9BB_DF19_39FA);
        assert_eq!(Crc64::default().value(), 0);
    }

    #[test]
    fn any_cut_gives_the_same() {
        let bytes: Vec<u8> = (0..100_u8).collect();
        let mut whole = Crc64::default();
        whole.update(&bytes);
        for cut in 0..bytes.len() {
            let mut crc = Crc64::default();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            assert_eq!(crc, whole, "cut at {cut}");
        }
    }
}

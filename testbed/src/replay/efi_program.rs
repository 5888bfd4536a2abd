//! A UEFI program for 64-bit Arm with the sections of a unified kernel image, which says one line on the console and turns the
//! machine off: small enough to be replayed a hundred thousand times, and real enough to be started by firmware and loader.

/// What the firmware's loader wants of a program (UEFI 2.10, section 2.1; PE format, "Optional Header").
const FILE_ALIGNMENT: usize = 512;
const PAGE: usize = 4096;
const HEADER: usize = 512;
const CODE: u32 = 0x6000_0020;
const DATA: u32 = 0x4000_0040;

/// A program that prints `line`, with the command line given, of `bytes` bytes in all (rounded up).
pub(super) fn program(line: &str, cmdline: &str, filling: &[u8]) -> Vec<u8> {
    let os_release = "ID=mbl\nNAME=\"Mbed Linux OS\"\nPRETTY_NAME=\"Mbed Linux OS\"\n";
    let sections: [(&[u8], Vec<u8>, u32); 4] = [
        (b".text", code(line), CODE),
        (b".osrel", os_release.into(), DATA),
        (b".cmdline", cmdline.into(), DATA),
        (b".linux", filling.to_vec(), DATA),
    ];
    let (mut table, mut body, mut address) = (Vec::new(), Vec::new(), PAGE);
    for (name, bytes, characteristics) in &sections {
        let mut padded_name = name.to_vec();
        padded_name.resize(8, 0);
        table.extend(padded_name);
        let stored = bytes.len().next_multiple_of(FILE_ALIGNMENT);
        for field in [bytes.len(), address, stored, HEADER + body.len(), 0, 0, 0] {
            table.extend(word(field));
        }
        table.extend(characteristics.to_le_bytes());
        body.extend_from_slice(bytes);
        body.resize(body.len().next_multiple_of(FILE_ALIGNMENT), 0);
        address += bytes.len().next_multiple_of(PAGE);
    }
    let mut head = b"MZ".to_vec();
    head.resize(0x3c, 0);
    head.extend(word(0x40));
    head.extend(b"PE\0\0");
    // Machine AArch64, four sections, an optional header of 240 bytes, an executable image.
    for half in [0xaa64_u16, 4, 0, 0, 0, 0, 0, 0, 240, 0x22] {
        head.extend(half.to_le_bytes());
    }
    head.extend(optional_header(address));
    head.extend(table);
    head.resize(HEADER, 0);
    head.extend(body);
    head
}

fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

/// The optional header of a PE32+ image of `size` bytes in memory whose entry is the start of its first section.
fn optional_header(size: usize) -> Vec<u8> {
    let mut header = vec![0; 240];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x20b_u16.to_le_bytes());
    for (at, value) in [(16, PAGE), (20, PAGE), (32, PAGE), (36, FILE_ALIGNMENT), (56, size), (60, HEADER), (108, 16)] {
        put(at, &word(value));
    }
    // Subsystem: EFI application.
    put(68, &10_u16.to_le_bytes());
    header
}

/// `SystemTable->ConOut->OutputString(line); SystemTable->RuntimeServices->ResetSystem(EfiResetShutdown, 0, 0, NULL);`
fn code(line: &str) -> Vec<u8> {
    const ADDRESS_OF_TEXT: usize = 2;
    let mut instructions: [u32; 13] = [
        0xaa01_03f3, // mov  x19, x1
        0xf940_2260, // ldr  x0, [x19, #64]     ConOut
        0x1000_0001, // adr  x1, text
        0xf940_0402, // ldr  x2, [x0, #8]       OutputString
        0xd63f_0040, // blr  x2
        0xf940_2e60, // ldr  x0, [x19, #88]     RuntimeServices
        0xf940_3404, // ldr  x4, [x0, #104]     ResetSystem
        0x5280_0040, // mov  w0, #2             EfiResetShutdown
        0xd280_0001, // mov  x1, #0
        0xd280_0002, // mov  x2, #0
        0xd280_0003, // mov  x3, #0
        0xd63f_0080, // blr  x4
        0x1400_0000, // b    .
    ];
    // The text begins behind the last instruction; the distance is counted from the one that asks for it, in words.
    let words = u32::try_from(instructions.len() - ADDRESS_OF_TEXT).unwrap_or(0);
    instructions[ADDRESS_OF_TEXT] |= words << 5;
    let text = line.encode_utf16().chain("\r\n\0".encode_utf16());
    instructions.iter().flat_map(|i| i.to_le_bytes()).chain(text.flat_map(u16::to_le_bytes)).collect()
}

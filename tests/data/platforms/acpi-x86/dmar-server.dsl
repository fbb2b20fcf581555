/* Two sockets of a server in segment 0, an I/O die in segment 1: own text, for tests of the DMAR reader. */
[0004] Signature : "DMAR"
[0004] Table Length : 00000000
[0001] Revision : 01
[0001] Checksum : 00
[0006] Oem ID : "PASLAB"
[0008] Oem Table ID : "SERVER"
[0004] Oem Revision : 00000001
[0004] Asl Compiler ID : "INTL"
[0004] Asl Compiler Revision : 20260408
[0001] Host Address Width : 33
[0001] Flags : 05
[0010] Reserved : 00 00 00 00 00 00 00 00 00 00

/* dmar0: a stack of socket 0: one root port, and a DSA on the root bus 0x6a */
[0002] Subtable Type : 0000
[0002] Length : 0020
[0001] Flags : 00
[0001] Size (decoded below) : 01
Size (pages, log2) : 1
[0002] PCI Segment Number : 0000
[0008] Register Base Address : 00000000D0FFC000
[0001] Device Scope Type : 02
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 15
[0002] PCI Path : 01,00
[0001] Device Scope Type : 01
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 6A
[0002] PCI Path : 01,00

/* dmar1: a function behind a root port and a switch port */
[0002] Subtable Type : 0000
[0002] Length : 001C
[0001] Flags : 00
[0001] Size (decoded below) : 01
Size (pages, log2) : 1
[0002] PCI Segment Number : 0000
[0008] Register Base Address : 00000000D8FFC000
[0001] Device Scope Type : 01
[0001] Entry Length : 0C
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 3A
[0002] PCI Path : 02,00
[0002] PCI Path : 00,01
[0002] PCI Path : 1F,07

/* dmar2: segment 1 */
[0002] Subtable Type : 0000
[0002] Length : 0018
[0001] Flags : 00
[0001] Size (decoded below) : 01
Size (pages, log2) : 1
[0002] PCI Segment Number : 0001
[0008] Register Base Address : 00000000E0FFC000
[0001] Device Scope Type : 02
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 80
[0002] PCI Path : 01,00

/* dmar3: the rest of segment 0, the I/O APIC, the HPET, and a namespace device */
[0002] Subtable Type : 0000
[0002] Length : 0028
[0001] Flags : 01
[0001] Size (decoded below) : 01
Size (pages, log2) : 1
[0002] PCI Segment Number : 0000
[0008] Register Base Address : 00000000C0FFC000
[0001] Device Scope Type : 03
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 08
[0001] PCI Bus Number : F0
[0002] PCI Path : 1F,00
[0001] Device Scope Type : 04
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 00
[0002] PCI Path : 1F,00
[0001] Device Scope Type : 05
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 01
[0001] PCI Bus Number : 00
[0002] PCI Path : 15,00

/* memory that a controller uses from boot on */
[0002] Subtable Type : 0001
[0002] Length : 0020
[0002] Reserved : 0000
[0002] PCI Segment Number : 0000
[0008] Base Address : 000000006D2C6000
[0008] End Address (limit) : 000000006F2C5FFF
[0001] Device Scope Type : 01
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 00
[0002] PCI Path : 14,00

/* ATS below the root port of dmar0, and below all of segment 1 */
[0002] Subtable Type : 0002
[0002] Length : 0010
[0001] Flags : 00
[0001] Reserved : 00
[0002] PCI Segment Number : 0000
[0001] Device Scope Type : 02
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 15
[0002] PCI Path : 01,00
[0002] Subtable Type : 0002
[0002] Length : 0008
[0001] Flags : 01
[0001] Reserved : 00
[0002] PCI Segment Number : 0001

[0002] Subtable Type : 0003
[0002] Length : 0014
[0004] Reserved : 00000000
[0008] Base Address : 00000000D0FFC000
[0004] Proximity Domain : 00000000
[0002] Subtable Type : 0003
[0002] Length : 0014
[0004] Reserved : 00000000
[0008] Base Address : 00000000E0FFC000
[0004] Proximity Domain : 00000001

[0002] Subtable Type : 0004
[0002] Length : 0017
[0003] Reserved : 000000
[0001] Device Number : 01
[0015] Device Name : "\_SB.PCI0.I2C0"

/* the DSA has an ATC that it needs */
[0002] Subtable Type : 0005
[0002] Length : 0010
[0001] Flags : 01
[0001] Reserved : 00
[0002] PCI Segment Number : 0000
[0001] Device Scope Type : 01
[0001] Entry Length : 08
[0001] Flags : 00
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 6A
[0002] PCI Path : 01,00

[0002] Subtable Type : 0006
[0002] Length : 0010
[0002] Reserved : 0000
[0002] PCI Segment Number : 0000
[0001] Device Scope Type : 01
[0001] Entry Length : 08
[0001] Flags : 18
[0001] Reserved : 00
[0001] Enumeration ID : 00
[0001] PCI Bus Number : 6A
[0002] PCI Path : 01,00

/* Three harts with Sv57 and one with Sv39: own text, for tests of the RHCT reader. */
[0004] Signature : "RHCT"
[0004] Table Length : 00000000
[0001] Revision : 01
[0001] Checksum : 00
[0006] Oem ID : "PASLAB"
[0008] Oem Table ID : "RISCV"
[0004] Oem Revision : 00000001
[0004] Asl Compiler ID : "INTL"
[0004] Asl Compiler Revision : 20260408
[0004] Flags : 00000001
[0008] Timer Base Frequency : 0000000000989680
[0004] Number of nodes : 00000009
[0004] Offset to the node array : 00000038

/* at 0x38 */
[0002] Subtable Type : 0000
[0002] Length : 001E
[0002] Revision : 0001
[0002] ISA string length : 0015
[0021] ISA string : "rv64imafdch_zba_zbb_"
[0001] Optional Padding : 00
/* at 0x56 */
[0002] Subtable Type : 0000
[0002] Length : 0012
[0002] Revision : 0001
[0002] ISA string length : 0009
[0009] ISA string : "rv64imac"
[0001] Optional Padding : 00
/* at 0x68 */
[0002] Subtable Type : 0001
[0002] Length : 000A
[0002] Revision : 0001
[0001] Reserved : 00
[0001] CBOM Block Size : 06
[0001] CBOP Block Size : 05
[0001] CBOZ Block Size : 07
/* at 0x72 */
[0002] Subtable Type : 0002
[0002] Length : 0008
[0002] Revision : 0001
[0001] Reserved : 00
[0001] MMU Type : 02
/* at 0x7A */
[0002] Subtable Type : 0002
[0002] Length : 0008
[0002] Revision : 0001
[0001] Reserved : 00
[0001] MMU Type : 00
[0002] Subtable Type : FFFF
[0002] Length : 0018
[0002] Revision : 0001
[0002] Number of offsets : 0003
[0004] Processor UID : 00000000
[0004] Nodes : 00000038
[0004] Nodes : 00000068
[0004] Nodes : 00000072
[0002] Subtable Type : FFFF
[0002] Length : 0018
[0002] Revision : 0001
[0002] Number of offsets : 0003
[0004] Processor UID : 00000001
[0004] Nodes : 00000038
[0004] Nodes : 00000068
[0004] Nodes : 00000072
[0002] Subtable Type : FFFF
[0002] Length : 0018
[0002] Revision : 0001
[0002] Number of offsets : 0003
[0004] Processor UID : 00000002
[0004] Nodes : 00000038
[0004] Nodes : 00000068
[0004] Nodes : 00000072
[0002] Subtable Type : FFFF
[0002] Length : 0018
[0002] Revision : 0001
[0002] Number of offsets : 0003
[0004] Processor UID : 00000003
[0004] Nodes : 00000056
[0004] Nodes : 00000068
[0004] Nodes : 0000007A

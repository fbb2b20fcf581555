/* Two IOMMUs of a server, each with blocks of all three types: own text, for tests of the IVRS reader. */
[0004] Signature : "IVRS"
[0004] Table Length : 00000000
[0001] Revision : 03
[0001] Checksum : 00
[0006] Oem ID : "PASLAB"
[0008] Oem Table ID : "SERVER"
[0004] Oem Revision : 00000001
[0004] Asl Compiler ID : "INTL"
[0004] Asl Compiler Revision : 20260408
[0004] Virtualization Info : 00203041
[0008] Reserved : 0000000000000000

[0001] Subtable Type : 10
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 003C
[0002] DeviceId : 0002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000FDF00000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Feature Reporting : 80048F6F
[0001] Subtable Type : 03
[0002] Device ID : 0003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 3FFE
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 43
[0002] Device ID : 3F00
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Reserved : 00
[0002] Source Used Device ID : 00A5
[0001] Reserved : 00
[0001] Subtable Type : 04
[0002] Device ID : 3FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 20
[0002] Source Used Device ID : 00A0
[0001] Variety : 01
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 00
[0002] Source Used Device ID : 00A0
[0001] Variety : 02

[0001] Subtable Type : 10
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 0030
[0002] DeviceId : 4002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000E0700000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Feature Reporting : 80048F6F
[0001] Subtable Type : 03
[0002] Device ID : 4003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 7FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 46
[0002] Device ID : 4100
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0004] Extended Data : 80000000
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 21
[0002] Source Used Device ID : 4001
[0001] Variety : 01

[0001] Subtable Type : 11
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 004C
[0002] DeviceId : 0002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000FDF00000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Attributes : 00040200
[0008] EFR Image : 0017000F000052DF
[0008] Reserved : 0000000000000000
[0001] Subtable Type : 03
[0002] Device ID : 0003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 3FFE
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 43
[0002] Device ID : 3F00
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Reserved : 00
[0002] Source Used Device ID : 00A5
[0001] Reserved : 00
[0001] Subtable Type : 04
[0002] Device ID : 3FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 20
[0002] Source Used Device ID : 00A0
[0001] Variety : 01
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 00
[0002] Source Used Device ID : 00A0
[0001] Variety : 02

[0001] Subtable Type : 11
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 0040
[0002] DeviceId : 4002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000E0700000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Attributes : 00040200
[0008] EFR Image : 0017000F000052DF
[0008] Reserved : 0000000000000000
[0001] Subtable Type : 03
[0002] Device ID : 4003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 7FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 46
[0002] Device ID : 4100
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0004] Extended Data : 80000000
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 21
[0002] Source Used Device ID : 4001
[0001] Variety : 01

[0001] Subtable Type : 40
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 0082
[0002] DeviceId : 0002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000FDF00000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Attributes : 00040200
[0008] EFR Image : 0017000F000052DF
[0008] Reserved : 0000000000000000
[0001] Subtable Type : 03
[0002] Device ID : 0003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 3FFE
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 43
[0002] Device ID : 3F00
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Reserved : 00
[0002] Source Used Device ID : 00A5
[0001] Reserved : 00
[0001] Subtable Type : 04
[0002] Device ID : 3FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 20
[0002] Source Used Device ID : 00A0
[0001] Variety : 01
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 00
[0002] Source Used Device ID : 00A0
[0001] Variety : 02
[0001] Subtable Type : F0
[0002] Device ID : 00A5
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0008] ACPI HID : "AMDI0020"
[0008] ACPI CID : 0000000000000000
[0001] UID Format : 02
[0001] UID Length : 08
[0008] UID : "FCH.FUR0"
[0001] Subtable Type : 42
[0002] Device ID : 0101
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Reserved : 00
[0002] Source Used Device ID : 0100
[0001] Reserved : 00
[0001] Subtable Type : 47
[0002] Device ID : 0200
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0004] Extended Data : 00000000
[0001] Subtable Type : 04
[0002] Device ID : 02FF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 02
[0002] Device ID : 0300
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0

[0001] Subtable Type : 40
[0001] Flags (decoded below) : B1
HtTunEn : 1
PassPW : 0
ResPassPW : 0
Isoc Control : 0
Iotlb Support : 1
Coherent : 1
Prefetch Support : 0
PPR Support : 1
[0002] Length : 0040
[0002] DeviceId : 4002
[0002] Capability Offset : 0040
[0008] Base Address : 00000000E0700000
[0002] PCI Segment Group : 0000
[0002] Virtualization Info : 0000
[0004] Attributes : 00040200
[0008] EFR Image : 0017000F000052DF
[0008] Reserved : 0000000000000000
[0001] Subtable Type : 03
[0002] Device ID : 4003
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 04
[0002] Device ID : 7FFF
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Subtable Type : 46
[0002] Device ID : 4100
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0004] Extended Data : 80000000
[0001] Subtable Type : 48
[0002] Device ID : 0000
[0001] Data Setting (decoded below) : 00
INITPass : 0
EIntPass : 0
NMIPass : 0
Reserved : 0
System MGMT : 0
LINT0 Pass : 0
LINT1 Pass : 0
[0001] Handle : 21
[0002] Source Used Device ID : 4001
[0001] Variety : 01

[0001] Subtable Type : 20
[0001] Flags (decoded below) : 07
Unity : 1
Readable : 1
Writeable : 1
Exclusion Range : 0
[0002] Length : 0020
[0002] DeviceId : 0000
[0002] Auxiliary Data : 0000
[0008] Reserved : 0000000000000000
[0008] Start Address : 00000000A0000000
[0008] Memory Length : 0000000000010000

[0001] Subtable Type : 21
[0001] Flags (decoded below) : 07
Unity : 1
Readable : 1
Writeable : 1
Exclusion Range : 0
[0002] Length : 0020
[0002] DeviceId : 0014
[0002] Auxiliary Data : 0000
[0008] Reserved : 0000000000000000
[0008] Start Address : 00000000A0000000
[0008] Memory Length : 0000000000010000

[0001] Subtable Type : 22
[0001] Flags (decoded below) : 07
Unity : 1
Readable : 1
Writeable : 1
Exclusion Range : 0
[0002] Length : 0020
[0002] DeviceId : 0100
[0002] Auxiliary Data : 01FF
[0008] Reserved : 0000000000000000
[0008] Start Address : 00000000A0000000
[0008] Memory Length : 0000000000010000

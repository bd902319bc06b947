// SPDX-License-Identifier: Apache-2.0
// Fabric primitives of UltraScale+ as UG574 describes them, as far as columns of tables use them.

module LUT6_2(O5, O6, I0, I1, I2, I3, I4, I5);
  parameter [63:0] INIT = 64'd0;
  output O5, O6;
  input I0, I1, I2, I3, I4, I5;
  assign O5 = INIT[{1'b0, I4, I3, I2, I1, I0}];
  assign O6 = INIT[{I5, I4, I3, I2, I1, I0}];
endmodule

// Bit by bit, and not as one vector: a simulator would see a loop through the LUTs.
module CARRY8(O, CO, CI, CI_TOP, DI, S);
  parameter CARRY_TYPE = "SINGLE_CY8";
  output [7:0] O, CO;
  input CI, CI_TOP;
  input [7:0] DI, S;
  wire c1 = S[0] ? CI : DI[0];
  wire c2 = S[1] ? c1 : DI[1];
  wire c3 = S[2] ? c2 : DI[2];
  wire c4 = S[3] ? c3 : DI[3];
  wire c5 = S[4] ? c4 : DI[4];
  wire c6 = S[5] ? c5 : DI[5];
  wire c7 = S[6] ? c6 : DI[6];
  wire c8 = S[7] ? c7 : DI[7];
  assign CO = {c8, c7, c6, c5, c4, c3, c2, c1};
  assign O = S ^ {c7, c6, c5, c4, c3, c2, c1, CI};
endmodule

// One address writes to all ports, each is read at its own; the last one at the address of writes.
module RAM32M(WCLK, WE, ADDRA, ADDRB, ADDRC, ADDRD, DIA, DIB, DIC, DID, DOA, DOB, DOC, DOD);
  input WCLK, WE;
  input [4:0] ADDRA, ADDRB, ADDRC, ADDRD;
  input [1:0] DIA, DIB, DIC, DID;
  output [1:0] DOA, DOB, DOC, DOD;
  reg [1:0] a [31:0], b [31:0], c [31:0], d [31:0];
  assign DOA = a[ADDRA], DOB = b[ADDRB], DOC = c[ADDRC], DOD = d[ADDRD];
  always @(posedge WCLK) if (WE) begin
    a[ADDRD] <= DIA; b[ADDRD] <= DIB; c[ADDRD] <= DIC; d[ADDRD] <= DID;
  end
endmodule

module RAM32M16(WCLK, WE, ADDRA, ADDRB, ADDRC, ADDRD, ADDRE, ADDRF, ADDRG, ADDRH,
                DIA, DIB, DIC, DID, DIE, DIF, DIG, DIH, DOA, DOB, DOC, DOD, DOE, DOF, DOG, DOH);
  input WCLK, WE;
  input [4:0] ADDRA, ADDRB, ADDRC, ADDRD, ADDRE, ADDRF, ADDRG, ADDRH;
  input [1:0] DIA, DIB, DIC, DID, DIE, DIF, DIG, DIH;
  output [1:0] DOA, DOB, DOC, DOD, DOE, DOF, DOG, DOH;
  reg [1:0] a [31:0], b [31:0], c [31:0], d [31:0], e [31:0], f [31:0], g [31:0], h [31:0];
  assign DOA = a[ADDRA], DOB = b[ADDRB], DOC = c[ADDRC], DOD = d[ADDRD];
  assign DOE = e[ADDRE], DOF = f[ADDRF], DOG = g[ADDRG], DOH = h[ADDRH];
  always @(posedge WCLK) if (WE) begin
    a[ADDRH] <= DIA; b[ADDRH] <= DIB; c[ADDRH] <= DIC; d[ADDRH] <= DID;
    e[ADDRH] <= DIE; f[ADDRH] <= DIF; g[ADDRH] <= DIG; h[ADDRH] <= DIH;
  end
endmodule

// SPDX-License-Identifier: Apache-2.0
// DSP48E2 as far as the column uses it: P = (D + A) * B + (0 or PCIN), every register with its own enable.
// Behaviour after the UltraScale Architecture DSP Slice User Guide (UG579).
module DSP48E2 #(
  parameter AMULTSEL = "A", parameter BMULTSEL = "B", parameter PREADDINSEL = "A",
  parameter A_INPUT = "DIRECT", parameter B_INPUT = "DIRECT",
  parameter USE_MULT = "MULTIPLY", parameter USE_SIMD = "ONE48",
  parameter integer AREG = 1, parameter integer ACASCREG = 1,
  parameter integer BREG = 1, parameter integer BCASCREG = 1,
  parameter integer CREG = 1, parameter integer DREG = 1, parameter integer ADREG = 1,
  parameter integer MREG = 1, parameter integer PREG = 1,
  parameter integer OPMODEREG = 1, parameter integer INMODEREG = 1, parameter integer ALUMODEREG = 1,
  parameter integer CARRYINREG = 1, parameter integer CARRYINSELREG = 1
) (
  input CLK,
  input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D, input [47:0] PCIN,
  input [29:0] ACIN, input [17:0] BCIN, input CARRYCASCIN, input MULTSIGNIN,
  input CARRYIN, input [2:0] CARRYINSEL, input [3:0] ALUMODE, input [4:0] INMODE, input [8:0] OPMODE,
  input CEA1, input CEA2, input CED, input CEAD, input CEB1, input CEB2, input CEC, input CEM, input CEP,
  input CEALUMODE, input CECARRYIN, input CECTRL, input CEINMODE,
  input RSTA, input RSTB, input RSTC, input RSTD, input RSTM, input RSTP,
  input RSTCTRL, input RSTINMODE, input RSTALUMODE, input RSTALLCARRYIN,
  output [47:0] P, output [47:0] PCOUT
);
  reg signed [26:0] a, d, ad;
  reg signed [17:0] b;
  reg signed [44:0] m;
  reg [47:0] p;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : 48'd0;
  wire [47:0] product = {{3{m[44]}}, m};
  always @(posedge CLK) begin
    if (CEA2) a <= A[26:0];
    if (CED) d <= D;
    if (CEAD) ad <= d + a;
    if (CEB2) b <= B;
    if (CEM) m <= ad * b;
    if (CEP) p <= z + product;
  end
  assign P = p;
  assign PCOUT = p;
  // Any other use is not modelled.
  initial begin
    if (AMULTSEL != "AD" || BMULTSEL != "B" || PREADDINSEL != "A" || A_INPUT != "DIRECT"
        || B_INPUT != "DIRECT" || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48"
        || AREG != 1 || BREG != 1 || DREG != 1 || ADREG != 1 || MREG != 1 || PREG != 1
        || OPMODEREG != 0 || INMODEREG != 0 || ALUMODEREG != 0 || CARRYINREG != 0 || CARRYINSELREG != 0) begin
      $display("DSP48E2: attribute that is not modelled");
      $fatal;
    end
  end
  always @(posedge CLK) begin
    if (OPMODE[8:7] != 0 || OPMODE[6:5] != 0 || OPMODE[3:0] != 4'b0101 || ALUMODE != 0 || INMODE != 5'b00100
        || CARRYIN || CARRYINSEL != 0 || RSTA || RSTB || RSTD || RSTM || RSTP) begin
      $display("DSP48E2: mode that is not modelled");
      $fatal;
    end
  end
endmodule

// SPDX-License-Identifier: Apache-2.0
// DSP48E2 as far as the columns use it: P = (A, D or their sum or difference) * B + (0 or PCIN), every register
// with its own enable. Behaviour after the UltraScale Architecture DSP Slice User Guide (UG579).
module DSP48E2 #(
  parameter AMULTSEL = "A", parameter BMULTSEL = "B", parameter PREADDINSEL = "A",
  parameter A_INPUT = "DIRECT", parameter B_INPUT = "DIRECT",
  parameter USE_MULT = "MULTIPLY", parameter USE_SIMD = "ONE48",
  parameter integer AREG = 1, parameter integer ACASCREG = 1,
  parameter integer BREG = 1, parameter integer BCASCREG = 1,
  parameter integer CREG = 1, parameter integer DREG = 1, parameter integer ADREG = 1,
  parameter integer MREG = 1, parameter integer PREG = 1,
  parameter integer OPMODEREG = 1, parameter integer INMODEREG = 1, parameter integer ALUMODEREG = 1,
  parameter integer CARRYINREG = 1, parameter integer CARRYINSELREG = 1,
  parameter [4:0] IS_INMODE_INVERTED = 5'd0
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
  reg signed [26:0] a1, a2, d, ad;
  reg signed [17:0] b1, b2;
  reg signed [44:0] m;
  reg [47:0] p;
  reg [4:0] inmode_register;
  // The inversion is in front of the register.
  wire [4:0] inmode_pin = INMODE ^ IS_INMODE_INVERTED;
  wire [4:0] inmode = INMODEREG != 0 ? inmode_register : inmode_pin;
  // INMODE[0]: A1 instead of A2. [1]: 0 instead of A. [2]: D instead of 0. [3]: minus A. [4]: B1 instead of B2.
  wire signed [26:0] a = inmode[1] ? 27'sd0 : inmode[0] ? a1 : a2;
  wire signed [26:0] added = inmode[2] ? d : 27'sd0;
  wire signed [26:0] operand = AMULTSEL == "AD" ? ad : a;
  wire signed [17:0] b = inmode[4] ? b1 : b2;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : 48'd0;
  wire [47:0] product = {{3{m[44]}}, m};
  always @(posedge CLK) begin
    if (CEINMODE) inmode_register <= inmode_pin;
    if (CEA1) a1 <= A[26:0];
    if (CEA2) a2 <= AREG == 2 ? a1 : A[26:0];
    if (CED) d <= D;
    if (CEAD) ad <= inmode[3] ? added - a : added + a;
    if (CEB1) b1 <= B;
    if (CEB2) b2 <= BREG == 2 ? b1 : B;
    if (CEM) m <= operand * b;
    if (CEP) p <= z + product;
  end
  assign P = p;
  assign PCOUT = p;
  // Any other use is not modelled.
  initial begin
    if ((AMULTSEL != "A" && AMULTSEL != "AD") || BMULTSEL != "B" || PREADDINSEL != "A" || A_INPUT != "DIRECT"
        || B_INPUT != "DIRECT" || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48"
        || (AREG != 1 && AREG != 2) || (BREG != 1 && BREG != 2) || ACASCREG != AREG || BCASCREG != BREG
        || DREG != 1 || ADREG != 1 || MREG != 1 || PREG != 1
        || OPMODEREG != 0 || ALUMODEREG != 0 || CARRYINREG != 0 || CARRYINSELREG != 0) begin
      $display("DSP48E2: attribute that is not modelled");
      $fatal;
    end
  end
  always @(posedge CLK) begin
    if (OPMODE[8:7] != 0 || OPMODE[6:5] != 0 || OPMODE[3:0] != 4'b0101 || ALUMODE != 0
        || CARRYIN || CARRYINSEL != 0 || RSTA || RSTB || RSTD || RSTM || RSTP || RSTINMODE
        // A1 and B1 exist where there are two registers; without the pre-adder D is not used.
        || (inmode_pin[0] && AREG != 2) || (inmode_pin[4] && BREG != 2)
        || (AMULTSEL == "A" && inmode_pin[3:2] != 0)) begin
      $display("DSP48E2: mode that is not modelled");
      $fatal;
    end
  end
endmodule

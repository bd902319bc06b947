// SPDX-License-Identifier: Apache-2.0
// A stand-in for the accelerator, as small as the frame harness's contract allows. START reads BURSTS bursts of
// 16 beats from the image, writes every beat to bank 0 (word = beat % 64) and, one cycle behind, its complement
// to bank 1, adds up all beats and the first beat of the input, and stores the sum.
module fake_bank(clk, bank_write_en, bank_write_address, bank_write_data, probe);
  input clk;
  input [15:0] bank_write_en;
  input [5:0] bank_write_address;
  input [127:0] bank_write_data;
  output [7:0] probe;
  reg [127:0] words [63:0];
  integer i;
  assign probe = words[0][7:0];
  always @(posedge clk)
    for (i = 0; i < 16; i = i + 1)
      if (bank_write_en[i]) words[bank_write_address][8*i +: 8] <= bank_write_data[8*i +: 8];
endmodule

module fake(clk, rst, s_axil_awaddr, s_axil_awprot, s_axil_awvalid, s_axil_awready, s_axil_wdata, s_axil_wstrb,
            s_axil_wvalid, s_axil_wready, s_axil_bresp, s_axil_bvalid, s_axil_bready, s_axil_araddr, s_axil_arprot,
            s_axil_arvalid, s_axil_arready, s_axil_rdata, s_axil_rresp, s_axil_rvalid, s_axil_rready, m_axi0_arid,
            m_axi0_araddr, m_axi0_arlen, m_axi0_arsize, m_axi0_arburst, m_axi0_arvalid, m_axi0_arready, m_axi0_rid,
            m_axi0_rdata, m_axi0_rresp, m_axi0_rlast, m_axi0_rvalid, m_axi0_rready, m_axi0_awid, m_axi0_awaddr,
            m_axi0_awlen, m_axi0_awsize, m_axi0_awburst, m_axi0_awvalid, m_axi0_awready, m_axi0_wdata, m_axi0_wstrb,
            m_axi0_wlast, m_axi0_wvalid, m_axi0_wready, m_axi0_bid, m_axi0_bresp, m_axi0_bvalid, m_axi0_bready,
            interrupt);
  localparam BURSTS = 32;
  localparam BEATS = 16 * BURSTS;
  localparam [63:0] BUILD = 64'h0;  // the test's
  input clk;
  input rst;
  input [7:0] s_axil_awaddr;
  input [2:0] s_axil_awprot;
  input s_axil_awvalid;
  output s_axil_awready;
  input [31:0] s_axil_wdata;
  input [3:0] s_axil_wstrb;
  input s_axil_wvalid;
  output s_axil_wready;
  output [1:0] s_axil_bresp;
  output reg s_axil_bvalid;
  input s_axil_bready;
  input [7:0] s_axil_araddr;
  input [2:0] s_axil_arprot;
  input s_axil_arvalid;
  output s_axil_arready;
  output reg [31:0] s_axil_rdata;
  output [1:0] s_axil_rresp;
  output reg s_axil_rvalid;
  input s_axil_rready;
  output [1:0] m_axi0_arid;
  output [63:0] m_axi0_araddr;
  output [7:0] m_axi0_arlen;
  output [2:0] m_axi0_arsize;
  output [1:0] m_axi0_arburst;
  output m_axi0_arvalid;
  input m_axi0_arready;
  input [1:0] m_axi0_rid;
  input [127:0] m_axi0_rdata;
  input [1:0] m_axi0_rresp;
  input m_axi0_rlast;
  input m_axi0_rvalid;
  output m_axi0_rready;
  output [1:0] m_axi0_awid;
  output [63:0] m_axi0_awaddr;
  output [7:0] m_axi0_awlen;
  output [2:0] m_axi0_awsize;
  output [1:0] m_axi0_awburst;
  output m_axi0_awvalid;
  input m_axi0_awready;
  output [127:0] m_axi0_wdata;
  output [15:0] m_axi0_wstrb;
  output m_axi0_wlast;
  output m_axi0_wvalid;
  input m_axi0_wready;
  input [1:0] m_axi0_bid;
  input [1:0] m_axi0_bresp;
  input m_axi0_bvalid;
  output m_axi0_bready;
  output interrupt;

  reg [31:0] registers [63:0];
  reg busy, pause, pending, aw_sent, w_sent;
  reg [31:0] cycles;
  reg [15:0] issued, beats;
  reg [127:0] sum;
  reg [15:0] completed_load, completed_stationary, completed_matmul, completed_drain, completed_softmax;
  reg [15:0] completed_layernorm, completed_store;
  // LOAD takes an instruction with the first beat of every burst.
  wire load_ready;
  wire stationary_ready, matmul_ready, drain_ready, softmax_ready, layernorm_ready, store_ready;
  assign {stationary_ready, matmul_ready, drain_ready, softmax_ready, layernorm_ready, store_ready} = 0;
  reg write_0, write_1;
  reg [127:0] data_0, data_1;
  reg [5:0] address_0, address_1;

  wire write = s_axil_awvalid & s_axil_wvalid & ~s_axil_bvalid;
  wire start = write & (s_axil_awaddr == 8'h04) & s_axil_wdata[0];
  wire beat = m_axi0_rvalid & m_axi0_rready;
  assign load_ready = beat & (beats < BEATS) & (beats[3:0] == 0);
  assign s_axil_awready = write;
  assign s_axil_wready = write;
  assign s_axil_bresp = 0;
  assign s_axil_rresp = 0;
  assign s_axil_arready = ~s_axil_rvalid;
  assign interrupt = pending & registers[4][0];

  assign m_axi0_arid = 0;
  assign m_axi0_arlen = 15;
  assign m_axi0_arsize = 4;
  assign m_axi0_arburst = 1;
  // The last burst reads the input.
  assign m_axi0_araddr = (issued == BURSTS) ? {registers[11], registers[10]}
                                            : {registers[9], registers[8]} + {40'd0, issued, 8'd0};
  assign m_axi0_arvalid = busy & (issued <= BURSTS);
  assign m_axi0_rready = ~pause;  // a bank is not overwritten in the very cycle after it is complete
  assign m_axi0_awid = 1;
  assign m_axi0_awaddr = {registers[13], registers[12]};
  assign m_axi0_awlen = 0;
  assign m_axi0_awsize = 4;
  assign m_axi0_awburst = 1;
  assign m_axi0_awvalid = busy & (beats == BEATS + 16) & ~aw_sent;
  assign m_axi0_wdata = sum;
  assign m_axi0_wstrb = 16'hffff;
  assign m_axi0_wlast = 1;
  assign m_axi0_wvalid = busy & (beats == BEATS + 16) & ~w_sent;
  assign m_axi0_bready = 1;

  genvar b;
  wire [7:0] probes [6:0];
  fake_bank bank0 (.clk(clk), .bank_write_en({16{write_0}}), .bank_write_address(address_0),
                   .bank_write_data(data_0), .probe(probes[0]));
  fake_bank bank1 (.clk(clk), .bank_write_en({16{write_1}}), .bank_write_address(address_1),
                   .bank_write_data(data_1), .probe(probes[1]));
  fake_bank bank2 (.clk(clk), .bank_write_en(0), .bank_write_address(0), .bank_write_data(0), .probe(probes[2]));
  fake_bank bank3 (.clk(clk), .bank_write_en(0), .bank_write_address(0), .bank_write_data(0), .probe(probes[3]));
  fake_bank bank4 (.clk(clk), .bank_write_en(0), .bank_write_address(0), .bank_write_data(0), .probe(probes[4]));
  fake_bank bank5 (.clk(clk), .bank_write_en(0), .bank_write_address(0), .bank_write_data(0), .probe(probes[5]));
  fake_bank bank6 (.clk(clk), .bank_write_en(0), .bank_write_address(0), .bank_write_data(0), .probe(probes[6]));

  always @(posedge clk) begin
    write_0 <= beat & (beats < BEATS);
    data_0 <= m_axi0_rdata;
    address_0 <= beats[5:0];
    write_1 <= write_0;
    data_1 <= ~data_0;
    address_1 <= address_0;
    if (busy) cycles <= cycles + 1;
    if (m_axi0_arvalid & m_axi0_arready) issued <= issued + 1;
    pause <= beat & (beats[5:0] == 63);
    if (beat) begin
      beats <= beats + 1;
      if (beats <= BEATS) sum <= sum + m_axi0_rdata;
      if (beats < BEATS & beats[3:0] == 15) completed_load <= completed_load + 1;
    end
    if (m_axi0_awvalid & m_axi0_awready) aw_sent <= 1;
    if (m_axi0_wvalid & m_axi0_wready) w_sent <= 1;
    if (m_axi0_bvalid) begin
      busy <= 0;
      pending <= 1;
      completed_store <= 1;
    end
    if (s_axil_bready) s_axil_bvalid <= 0;
    if (s_axil_rready) s_axil_rvalid <= 0;
    if (write) begin
      s_axil_bvalid <= 1;
      registers[s_axil_awaddr[7:2]] <= s_axil_wdata;
      if (s_axil_awaddr == 8'h0c & s_axil_wdata[0]) pending <= 0;
    end
    if (s_axil_arvalid & s_axil_arready) begin
      s_axil_rvalid <= 1;
      case (s_axil_araddr)
        8'h00: s_axil_rdata <= 32'h48574731;
        8'h08: s_axil_rdata <= {30'd0, pending, busy};
        8'h0c: s_axil_rdata <= {31'd0, pending};
        8'h14: s_axil_rdata <= registers[6'h3f];  // CAUSE, set by the test through an unused register
        8'h18: s_axil_rdata <= 32'h123;
        8'h80: s_axil_rdata <= 32'h7;
        8'h84: s_axil_rdata <= BUILD[31:0];
        8'h88: s_axil_rdata <= BUILD[63:32];
        8'h40: s_axil_rdata <= cycles;
        default: s_axil_rdata <= 0;
      endcase
    end
    if (start | rst) begin
      busy <= start;
      cycles <= 0;
      issued <= 0;
      beats <= 0;
      sum <= 0;
      aw_sent <= 0;
      w_sent <= 0;
      completed_load <= 0;
      completed_store <= 0;
    end
    completed_stationary <= 0;
    completed_matmul <= 0;
    completed_drain <= 0;
    completed_softmax <= 0;
    completed_layernorm <= 0;
    if (rst) begin
      pending <= 0;
      pause <= 0;
      s_axil_bvalid <= 0;
      s_axil_rvalid <= 0;
      write_0 <= 0;
      write_1 <= 0;
      registers[6'h3f] <= 0;
    end
  end
endmodule

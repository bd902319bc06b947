from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ResourceEstimate:
    lut: int
    ff: int
    dsp: int
    bram36: float
    modules: dict


def estimate_resources(c):
    R, C = c.rows, c.columns
    ram = sum(-(-w * R * 8 // 36864) for w in c.bank_words) + 2 * -(-C * 32 // 64) * -(
        -c.tile_rows // 512
    )
    return ResourceEstimate(
        lut=8000 + R * C + 800 * R + 300 * c.memory_ports + 100 * c.softmax_vec,
        ff=10000 + 2 * R * C + 700 * R,
        dsp=R * C // 2 + 3 * R + 5,
        bram36=ram + 8 * c.memory_ports,
        modules={},
    )


def model_error():
    return {"lut": 0.03, "ff": 0.03, "dsp": 0.0, "bram36": 0.0}


def cascades(c):
    return c.columns // 2

"""Small Parquet files as hubs serve them -> packages/loaders/src/golden/{alpaca-snappy,messages-zstd}.parquet.

Run: python tools/golden/parquet_records.py      (made with pyarrow 26.0.1)
"""

from pathlib import Path

import pyarrow
import pyarrow.parquet

GOLDEN = Path(__file__).resolve().parents[2] / "packages" / "loaders" / "src" / "golden"

ALPACA = [
    {"instruction": "Add the numbers.", "input": "2, 3", "output": "5", "history": [["Hi", "Hello"]], "system": "Be exact."},
    {"instruction": "Grüße auf Chinesisch?", "input": "", "output": "你好 🎉", "history": [], "system": None},
]
MESSAGES = [
    {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}], "source": "a"},
    {
        "messages": [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "Three?"},
            {"role": "assistant", "content": "3"},
        ],
        "source": "b",
    },
]

for name, records, codec in [("alpaca-snappy", ALPACA, "snappy"), ("messages-zstd", MESSAGES, "zstd")]:
    path = GOLDEN / f"{name}.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, compression=codec)
    print(f"{path}: {path.stat().st_size:,} bytes")

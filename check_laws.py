"""Scratch: python check_laws.py NAME ... [--precision P]; prints what is broken. Not committed."""
import sys, time
import mlx_patch as mp
from mlx_patch.testing import ZOO, tiny_model
args = sys.argv[1:]
prec = "float32"
if "--precision" in args:
    i = args.index("--precision"); prec = args[i + 1]; del args[i : i + 2]
for name in args or ZOO:
    t = time.time()
    try:
        m = mp.HookedModel(tiny_model(name, prec))
        r = m.verify()
    except Exception as e:
        print(name, prec, "ERROR", type(e).__name__, str(e)[:600]); continue
    print(name, prec, "ok" if r.ok else "BROKEN", len(r.findings), f"{time.time()-t:.2f}s")
    for f in r.broken[:12]: print("    law", f.law, f.what, f"{f.deviation:.2g} > {f.tolerance:.2g}")

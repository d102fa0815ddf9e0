def text(results):
    out = []
    for case in results["cases"]:
        out.append(f"{case['suite']:9} {case['name']:36} floor {case.get('floor_us')}")
        for n, c in case["contestants"].items():
            out.append(
                f"    {n:14} {c['status']} "
                + (
                    f"{c['us']['median']:.2f} us x{c.get('over', {}).get('median', 0):.3f} turns {c['turns']} share {c.get('floor_share')}"
                    if "us" in c
                    else c["reason"]
                )
            )
    return "\n".join(out)


def write(results, folder):
    return folder

"""A line of a phase diagram under two sliders: `marimo run notebooks/live.py`, or `marimo edit` to change it."""

import marimo

app = marimo.App()


@app.cell
def _():
    import jax
    import jax.numpy as jnp
    import marimo as mo
    import matplotlib.pyplot as plt

    import layerflow as lf

    jax.config.update("jax_enable_x64", True)
    return jnp, lf, mo, plt


@app.cell
def _(jnp, lf):
    # Prepared once: no slider runs this cell again.
    task = lf.Moments.whitened(yx=jnp.diag(jnp.array([2.0, 1.0])))

    def cell(key, lam, scale):
        return lf.Problem(lf.lambda_balanced(key, lam, scale, inp=2, hid=2, out=2), task)

    run = lf.prepare(
        cell, {"lam": jnp.linspace(-5, 5, 80)}, method=lf.Exact(t1=2.0), observe=lf.kernel_distance, progress=False
    )
    return (run,)


@app.cell
def _(mo):
    scale = mo.ui.slider(0.05, 1.0, step=0.05, value=0.1, label="scale of the product")
    t1 = mo.ui.slider(0.5, 10.0, step=0.5, value=2.0, label="gradient-flow time")
    mo.vstack([scale, t1])
    return scale, t1


@app.cell
def _(plt, run, scale, t1):
    diagram = run(scale=scale.value, t1=t1.value)
    figure, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    ax.plot(diagram.lam, diagram.kernel_distance)
    ax.set(xlabel="layer imbalance λ (weight²)", ylabel="kernel distance", ylim=(0, 1))
    figure
    return


if __name__ == "__main__":
    app.run()

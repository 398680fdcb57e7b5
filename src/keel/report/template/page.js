"use strict";
const figures = JSON.parse(document.getElementById("figure-data").textContent);
for (const [id, figure] of Object.entries(figures)) {
  Plotly.newPlot(`figure-${id}`, figure.data, figure.layout, {
    responsive: true,
    displaylogo: false,
    // A report stays where it is: no button that uploads a figure.
    showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: id },
  });
}

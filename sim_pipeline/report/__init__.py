"""One HTML file that shows a period: rankings, plots, events, objectives and delivery."""

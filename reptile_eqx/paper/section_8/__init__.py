"""Section 8: small experiments on the questions that the paper left open, for notebook 7.

| module | what it has |
|---|---|
| `questions` | what is trained on images, as data, and how its learning rates were chosen |
| `variants` | Reptile with deeper networks and regularisers |
| `supervised` | ordinary training on one fixed set of characters, with Section 5's term added |
| `fine_tuning` | joint training plus fine-tuning, and Reptile beside it |
| `answers`, `figures` | what the records of these say, and their figures |
| `reinforcement`, `reinforcement_runs`, `reinforcement_figures` | bandits and navigation, by policy gradients |
| `density`, `pixelcnn`, `density_figures` | few-shot models of drawings |
"""

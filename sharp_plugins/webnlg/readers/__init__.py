"""Published forms of data-to-text corpora, a file each; all of them give `sharp_plugins.webnlg.entry.Entry`."""
